"""Books that are lent, and the days after which they are missed."""

from datetime import timedelta

DAYS = 28


class Shelf:
    """Books by their number, and who has them."""

    def __init__(self):
        self.books = {}
        self.lent = {}

    def add(self, number, title):
        """Put a new book on the shelf; a number is given only once."""
        if number in self.books:
            raise ValueError(f"{number} is {self.books[number]}")
        self.books[number] = title

    def lend(self, number, reader, today):
        """Give a book to a reader and return the day when it is due."""
        if number in self.lent:
            raise LookupError(f"{self.books[number]} is lent")
        due = today + timedelta(days=DAYS)
        self.lent[number] = (reader, due)
        return due

    def give_back(self, number):
        """Take a book back and return the name of the reader who had it."""
        reader, _ = self.lent.pop(number)
        return reader

    def overdue(self, today):
        """Yield the titles of the books that should have been back by now."""
        for number, (_, due) in self.lent.items():
            if due < today:
                yield self.books[number]
