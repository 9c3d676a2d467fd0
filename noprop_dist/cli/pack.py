"""`pack`: a data set into files that are mapped, for data larger than memory."""

import re
import shlex
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from noprop_dist import api
from noprop_dist.cli.options import warn
from noprop_dist.cli.terminal import Terminal, shown
from noprop_dist.config.schema import DataSettings
from noprop_dist.files import local_path

DATA = re.compile(r"data[.=]")


def pack_into(out: str, settings: DataSettings, given: Sequence[str] = ()) -> None:
    """Pack a data set, and print how it is used. Told are those `given` on the command line that are not of the data.

    Raises:
        UserError: it is packed already, cannot be read, or the folder cannot be written.
    """
    warn(f"--set {each}: no effect on pack, which reads data.* alone" for each in given if not DATA.match(each))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars, notes = Progress(*columns, console=Terminal(stderr=True)), list[str]()
    tasks: dict[str, TaskID] = {}

    def show(split: str, done: int, total: int) -> None:
        bars.start()  # here, for what is refused has no progress
        if split not in tasks:
            tasks[split] = bars.add_task(split, total=total)
        bars.update(tasks[split], completed=done)

    try:
        facts = api.pack(out, settings, show, notes.append)
    finally:
        if tasks:
            bars.stop()
    warn(notes)
    samples = ", ".join(f"{count:,} {split}" for split, count in facts.samples.items())
    print(f"{shown(facts.name)}: {samples} samples of shape {facts.input_shape}")
    place = shlex.quote(str(local_path(out).absolute()))
    print(f"use it with --set data.name=packed --set data.root={shown(place)}")
