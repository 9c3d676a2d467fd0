"""What a run writes down and tells people."""

from noprop_dist.engines.core.commands import Command, Log
from noprop_dist.records import News, Record
from noprop_dist.training.progress import NewsBoard


class Journal:
    """The records of one run, on their way to the log.

    Args:
        outbox: where commands are appended.
    """

    def __init__(self, outbox: list[Command]) -> None:
        self._outbox = outbox
        self.news = NewsBoard()
        self.unwritten = False
        """True if anything was logged since this was last set to False."""

    def log(self, record: Record) -> None:
        """Write a record down."""
        self.unwritten = True
        self._outbox.append(Log(record))

    def tell(self, *lines: str) -> None:
        """Tell people, and write it down."""
        for line in lines:
            self.news.tell(line)
            self.log(News(text=line))
