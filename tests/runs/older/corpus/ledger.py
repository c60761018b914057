"""Money in whole cents, and two columns that agree."""


def cents(text):
    """Read an amount such as 12.50 without ever making it a float."""
    whole, _, part = text.partition(".")
    return int(whole) * 100 + int(part.ljust(2, "0")[:2] or 0)


def shown(amount):
    """Write an amount of cents with a point and two digits."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02d}"


def share(amount, people):
    """Split an amount so that the parts add up; the first ones pay the odd cents."""
    part, odd = divmod(amount, people)
    return [part + 1] * odd + [part] * (people - odd)


def balance(entries):
    """Return what each account holds after all entries, and check that nothing was made."""
    accounts: dict[str, int] = {}
    for debit, credit, amount in entries:
        accounts[debit] = accounts.get(debit, 0) + amount
        accounts[credit] = accounts.get(credit, 0) - amount
    assert sum(accounts.values()) == 0
    return accounts
