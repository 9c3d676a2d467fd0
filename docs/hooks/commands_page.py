"""The reference of the command line, from typer's own help."""

from collections.abc import Iterator
from typing import Any

import typer.main

from noprop_dist.cli.app import app

DEEPEST = 4


def commands() -> str:
    """A section for each command, with its arguments and options."""
    return "\n".join(_command("noprop-dist", typer.main.get_command(app), level=2))


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    parts = getattr(command, "commands", {})
    yield from (f"{'#' * level} {name}", "", (command.help or "").strip(), "")
    yield from (f"    {name} {' '.join(command.collect_usage_pieces(context))}", "")
    records = [parameter.get_help_record(context) for parameter in command.params if "completion" not in parameter.name]
    if any(records):
        yield from ("| argument or option | meaning |", "|---|---|")
        yield from (f"| `{shown}` | {_in_cell(text)} |" for shown, text in filter(None, records))
        yield ""
    for part in parts:
        yield from _command(f"{name} {part}", parts[part], min(level + 1, DEEPEST))


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[")
