"""`predict`: to standard output, or into a file with progress on standard error."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from noprop_dist import api
from noprop_dist.api.types import Sampler
from noprop_dist.cli.options import warn
from noprop_dist.cli.terminal import Terminal
from noprop_dist.errors import UserError
from noprop_dist.printable import printable

LINE_SECONDS = 10.0
"""Without a terminal, at most one line in so many seconds."""


class Asked(TypedDict):
    """How a run is to answer: what `api.predict` and `api.predict_into` have in common."""

    sampler: Sampler
    passes: int
    checkpoint: str
    steps_per_block: int | None
    trust_code: bool


def show_predictions(run_dir: str, images: Sequence[str], asked: Asked, *, as_json: bool) -> None:
    """Print class and probability of each image.

    Raises:
        UserError: images cannot be read; the others are printed.
    """
    unreadable = list[UserError]()
    found = api.predict(run_dir, images, **asked, warn=lambda line: warn([line]), on_unreadable=unreadable.append)
    if as_json:
        print(json.dumps([{"image": p.image, "class": p.class_name, "probability": p.probability} for p in found]))
    else:
        for each in found:
            Terminal().print(f"{printable(each.image)}: {printable(each.class_name)} ({each.probability:.1%})")
    if not found and len(unreadable) == 1:
        raise unreadable[0]
    warn(map(str, unreadable))
    if unreadable:
        raise UserError(f"{len(unreadable):,} of {len(found) + len(unreadable):,} images cannot be read")


def write_predictions(run_dir: str, images: Sequence[str], out: str, asked: Asked, *, as_json: bool) -> None:
    """Write class and probabilities of each image into a file.

    Raises:
        UserError: the file cannot be written; or it is, without the images that cannot be read.
    """
    try:
        with _progress() as (say, show):
            written = api.predict_into(run_dir, images, out, **asked, warn=say, on_progress=show)
    except KeyboardInterrupt:
        warn([f"interrupted; the same command goes on with {out}"])
        raise
    done = written.samples - written.left_out
    if as_json:
        print(json.dumps({"out": str(out), "images": done, "left_out": written.left_out}))
    else:
        print(printable(f"{out}: {done:,} images"))
    if written.left_out:
        raise UserError(
            f"{written.left_out:,} of {written.samples:,} images cannot be read, and {out} is written without them; "
            f"{out}.json names them"
        )


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """What shows lines that stay, and what shows how many images are done: a bar, or a line now and then."""
    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield lambda line: warn([line]), _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("images", total=None)
        yield lambda line: warn([line]), lambda done, total: bars.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._began: tuple[float, int] | None = None
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._began = self._began or (now, done)
        if now - self._last < LINE_SECONDS:
            return
        self._last, (began, at_first) = now, self._began
        line = f"{done:,} of {total:,} images"
        if done > at_first:
            rate = (done - at_first) / (now - began)
            line += f", {rate:,.0f} images/s, {(total - done) / rate:,.0f} s left"
        self._console.print(line)
