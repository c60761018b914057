"""Replace personal data in a text. What replaces a match is a pure function of the match.

So the output depends neither on other documents nor on how they were cut into tasks, and an address
is replaced by the same one wherever it is. Replacements come from the ranges that are reserved for
examples, are few, so that they tell nothing of what they replaced, and are never replaced again.
"""

import hashlib
import ipaddress
import re

from distrain.config.curation import PiiConfig

EMAILS = ("email@example.com", "firstname.lastname@example.org")
EMAIL_DOMAINS = (".example.com", ".example.org", ".example.net")
"""Reserved for examples (RFC 2606)."""
IPV4 = tuple(f"{net}.{host}" for net in ("192.0.2", "198.51.100", "203.0.113") for host in (1, 2))
"""Reserved for documentation (RFC 5737)."""
IPV6 = ("2001:db8::1", "2001:db8::2")
"""Reserved for documentation (RFC 3849)."""
PHONES = ("+1 202-555-0110", "+1 303-555-0142", "+1 404-555-0173")
"""Reserved for fiction in the North American numbering plan (555-0100 to 555-0199)."""
CARDS = ("4111 1111 1111 1111", "5555 5555 5555 4444")
"""Numbers of payment processors' test accounts."""

MAX_LOCAL_PART = 64
MAX_DOMAIN = 255
"""RFC 5321, 4.5.3.1; they also bound the work at each ``@`` of a hostile text."""

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf"\b(?=\w){_ATOM}(?:\.{_ATOM})*\Z")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}\b")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\.?\w)")
# In every match, and found several times as fast: most texts hold no address.
_IPV4_SIGN = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")
_IPV6_SIGN = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]")
# Global unicast addresses begin with 2 or 3 (RFC 4291, 2.4); nothing else of this form is replaced.
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?!\.?\w)")
_PHONE = re.compile(r"(?<![\w+])\+[1-9](?:[ .()-]{0,2}\d){7,14}(?!\w)")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?!\.?\w)")


def replace_pii(text: str, config: PiiConfig) -> str:
    """Replace what the section names; the same text again if there is nothing."""
    if config.emails and "@" in text:
        text = _replace_emails(text)
    # Before phone numbers: behind a plus sign, a card's number has the form of one.
    if config.card_numbers:
        text = _CARD.sub(_replace_card, text)
    if config.phone_numbers and "+" in text:
        text = _PHONE.sub(_replace_phone, text)
    if config.ip_addresses:
        if _IPV4_SIGN.search(text):
            text = _IPV4.sub(_replace_ip, text)
        if _IPV6_SIGN.search(text):
            text = _IPV6.sub(_replace_ip, text)
    return text


def choose(match: str, replacements: tuple[str, ...]) -> str:
    """Choose by the hash of the match."""
    digest = hashlib.blake2b(match.encode(), digest_size=8).digest()
    return replacements[int.from_bytes(digest) % len(replacements)]


def _replace_emails(text: str) -> str:
    """Look around each ``@``: one expression for all of it takes quadratic time on some texts."""
    parts = []
    copied = 0
    at = text.find("@")
    while at >= 0:
        end = at + 1
        # Not back into what is replaced already: of ``a@b.com@c.com`` the first address counts.
        local = _LOCAL_PART.search(text, max(copied, at - MAX_LOCAL_PART), at)
        # Bounded on both sides, as a text of nothing but ``@`` and letters would else take
        # quadratic time.
        domain = _DOMAIN.match(text, at + 1, at + 1 + MAX_DOMAIN) if local else None
        if local and domain:
            end = domain.end()
            if not f".{domain[0].lower()}".endswith(EMAIL_DOMAINS):
                parts += [text[copied : local.start()], choose(text[local.start() : end], EMAILS)]
                copied = end
        at = text.find("@", end)
    return "".join([*parts, text[copied:]])


def _replace_ip(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    if not address.is_global:  # private, reserved, or one of the replacements
        return match[0]
    return choose(str(address), IPV4 if address.version == 4 else IPV6)


def _replace_phone(match: re.Match[str]) -> str:
    return match[0] if match[0] in PHONES else choose(_digits(match[0]), PHONES)


def _replace_card(match: re.Match[str]) -> str:
    if match[0] in CARDS or not passes_luhn(_digits(match[0])):
        return match[0]
    return choose(_digits(match[0]), CARDS)


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def passes_luhn(digits: str) -> bool:
    """Check the last digit of a card number (ISO/IEC 7812-1, annex B)."""
    doubled = [2 * int(digit) for digit in digits[-2::-2]]
    total = sum(map(int, digits[-1::-2])) + sum(value - 9 * (value > 9) for value in doubled)
    return total % 10 == 0
