"""Tables of figures, which are no use in pieces."""

from rich.console import Console

WIDTH = 140


def print_figures(*parts: object) -> None:
    """Print tables and lines, wider than the terminal where that is narrow."""
    Console(highlight=False, width=max(Console().width, WIDTH)).print(*parts, sep="\n")
