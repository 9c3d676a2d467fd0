"""The console of every command: what it prints is text, whatever names of files and classes are in it."""

from typing import Any

from rich.console import Console
from rich.text import Text

from noprop_dist.printable import printable, without_secrets


def shown(text: str) -> str:
    """Text as the terminal may have it: no control character but tab and newline, no secret of a URI."""
    return printable(without_secrets(text), keep="\n\t")


class Terminal(Console):
    """A console that finds no markup, emoji or colour in text, and shows nothing that a terminal would obey.

    Args:
        **options: as of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "soft_wrap": True, **options}, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:  # cells of tables come here, too
        """As the base class has it."""
        return super().render_str(shown(text), **options)
