"""How far a run is: reports of stages go in, a frozen table for people comes out."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from noprop_dist.stages import Stage

StageState = Literal["starting", "training", "recovering", "moving", "waiting", "stopped", "done"]
REPORTS_KEPT = 8
"""Throughput is measured over a stage's last few reports."""
NEWS_KEPT = 100
BLOCK_KINDS = ("block", "network")
"""The kinds of stages whose steps are counted: the baseline's network as a block."""


@dataclass(frozen=True)
class StageProgress:
    """One row of the progress table; `steps_per_second` by the wall clock."""

    stage: Stage
    step: int
    loss: float | None
    steps_per_second: float
    state: StageState


@dataclass(frozen=True)
class RunProgress:
    """The whole table.

    Attributes:
        total_steps: of every stage.
        stages: blocks, then the classifier, then a learned W_embed.
        elapsed_seconds: since this process began to train.
        remaining_seconds: at the present speed; None until every block that is to train now has told its own.
        news: the latest lines for people, such as evaluations and recoveries.
        news_told: how many lines there were so far; `news` has the last of them.
        waits_for: what the run waits for while no block can be trained; None while some can.
    """

    total_steps: int
    stages: tuple[StageProgress, ...]
    elapsed_seconds: float
    remaining_seconds: float | None
    news: tuple[str, ...]
    news_told: int
    waits_for: str | None = None

    @property
    def blocks(self) -> tuple[StageProgress, ...]:
        """The rows of the blocks, or of the baseline's network."""
        return tuple(row for row in self.stages if row.stage.kind in BLOCK_KINDS)

    @property
    def block_steps_per_second(self) -> float:
        """Of all blocks together; the classifier's steps are not counted."""
        return sum(row.steps_per_second for row in self.blocks)

    @property
    def fraction(self) -> float:
        """Share of the blocks' steps that is done: classifier and W_embed take no time beside them."""
        return sum(row.step for row in self.blocks) / (self.total_steps * len(self.blocks))

    def line(self) -> str:
        """`31% done: slowest block at step 120, fastest at step 136 of 400; 160 block-steps/s, loss …, 20 s left`."""
        done = f"{int(100 * self.fraction)}% done: {self._where()}"  # rounded down: 100% is the end
        if self.waits_for is not None:
            return f"{done}; {self.waits_for}"
        losses = [stage.loss for stage in self.blocks if stage.loss is not None]
        rate = self.block_steps_per_second
        if not losses and rate == 0 and self.fraction < 1:
            return f"{done}; starting: no round of block-steps is done yet"
        loss = f"loss {_range(f'{min(losses):.3g}', f'{max(losses):.3g}')}, " if losses else ""
        speed = f"{rate:.0f} block-steps/s, " if rate > 0 else ""
        return f"{done}; {speed}{loss}{_left(self.remaining_seconds)}"

    def _where(self) -> str:
        steps, total = [stage.step for stage in self.blocks], self.total_steps
        if min(steps) < max(steps):
            return f"slowest block at step {min(steps)}, fastest at step {max(steps)} of {total}"
        return f"{'all blocks at ' if len(steps) > 1 else ''}step {steps[0]} of {total}"


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _left(seconds_left: float | None) -> str:
    if seconds_left is None:
        return "time left unknown"
    minutes, seconds = divmod(round(seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min left"
    return f"{minutes} min {seconds} s left" if minutes else f"{seconds} s left"


class Window:
    """Steps a second over the last few reports, from the first on: what came before that was start-up.

    Args:
        reports: that are kept.
    """

    def __init__(self, reports: int) -> None:
        self._reports = deque[tuple[float, int]]((), reports + 1)

    def add(self, steps: int, now: float) -> None:
        """So many steps were done at `now` (monotonic seconds)."""
        self._reports.append((now, steps))

    @property
    def rate(self) -> float:
        """0 as long as it is unknown."""
        if len(self._reports) < 2:
            return 0.0
        (since, before), (until, steps) = self._reports[0], self._reports[-1]
        return max(0.0, (steps - before) / (until - since)) if until > since else 0.0


class StageMeter:
    """Loss and speed of one stage, from its last few reports.

    Args:
        stage: that reports.
        step: at which it begins.
        now: monotonic seconds; the window begins later, with the first report.
    """

    def __init__(self, stage: Stage, step: int, now: float) -> None:  # noqa: ARG002
        self._stage = stage
        self._step = step
        self._loss: float | None = None
        self._window = Window(REPORTS_KEPT)

    def reported(self, step: int, loss: float | None, now: float) -> None:
        """The stage has come to `step`."""
        self._step, self._loss = step, loss
        self._window.add(step, now)

    def row(self, state: StageState) -> StageProgress:
        """The stage's row of the table; may be called from another thread."""
        return StageProgress(self._stage, self._step, self._loss, self._window.rate, state)


class NewsBoard:
    """The latest lines of news."""

    def __init__(self) -> None:
        self.lines: tuple[str, ...] = ()
        self.told = 0

    def tell(self, line: str) -> None:
        """Add a line."""
        self.lines = (*self.lines, line)[-NEWS_KEPT:]
        self.told += 1


def run_progress(
    total_steps: int,
    rows: Sequence[StageProgress],
    elapsed_seconds: float,
    news: NewsBoard,
    waits_for: str | None = None,
    rate: float | None = None,
) -> RunProgress:
    """The whole table, from the rows of all stages; `rate` is that of all blocks, where it is not the sum of theirs."""
    blocks = [row for row in rows if row.stage.kind in BLOCK_KINDS]
    if rate is None:
        rate = sum(row.steps_per_second for row in blocks if row.state == "training")
        untold = [row for row in blocks if row.state in ("starting", "training") and row.steps_per_second == 0]
        rate = 0.0 if untold else rate
    left = sum(total_steps - row.step for row in blocks)
    remaining = left / rate if rate > 0 else (0.0 if left == 0 else None)
    return RunProgress(total_steps, tuple(rows), elapsed_seconds, remaining, news.lines, news.told, waits_for)


class ProgressBoard:
    """The progress of stages that one process trains, one after another.

    Args:
        done: steps that each stage has done when the run begins, in the order of the table.
        total_steps: of every stage.
        now: monotonic seconds.
    """

    def __init__(self, done: dict[Stage, int], total_steps: int, now: float) -> None:
        self._steps = dict(done)
        self._losses: dict[Stage, float | None] = dict.fromkeys(done)
        self._total_steps = total_steps
        self._started = now
        self._at_work: Stage | None = None
        self._window = Window(REPORTS_KEPT * len(done))
        self.news = NewsBoard()

    def reported(self, stage: Stage, step: int, loss: float | None, now: float) -> None:
        """A stage has come to `step`."""
        self._steps[stage], self._losses[stage] = step, loss
        if stage.kind in BLOCK_KINDS:
            self._at_work = stage
            self._window.add(sum(steps for each, steps in self._steps.items() if each.kind in BLOCK_KINDS), now)

    def picture(self, now: float) -> RunProgress:
        """The table as it is now."""
        rows = [self._row(stage, step) for stage, step in self._steps.items()]
        return run_progress(self._total_steps, rows, now - self._started, self.news, rate=self._window.rate)

    def _row(self, stage: Stage, step: int) -> StageProgress:
        """A stage's row; the block at work has the speed of all, for the others wait."""
        works = stage == self._at_work
        state: StageState = "starting" if self._at_work is None else "training" if works else "waiting"
        state = "done" if step >= self._total_steps else state
        return StageProgress(stage, step, self._losses[stage], self._window.rate if works else 0.0, state)
