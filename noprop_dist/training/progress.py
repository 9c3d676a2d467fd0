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
        remaining_seconds: at the present speed; None while that is unknown.
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
        return tuple(row for row in self.stages if row.stage.kind in ("block", "network"))

    @property
    def block_steps_per_second(self) -> float:
        """Of all blocks together; the classifier's steps are not counted."""
        return sum(row.steps_per_second for row in self.blocks)

    @property
    def fraction(self) -> float:
        """Share of the blocks' steps that is done: classifier and W_embed take no time beside them."""
        return sum(row.step for row in self.blocks) / (self.total_steps * len(self.blocks))


class StageMeter:
    """Loss and speed of one stage, from its last few reports.

    Args:
        stage: that reports.
        step: at which it begins.
        now: monotonic seconds.
    """

    def __init__(self, stage: Stage, step: int, now: float) -> None:
        self._stage = stage
        self._loss: float | None = None
        self._reports = deque([(now, step)], REPORTS_KEPT + 1)

    def reported(self, step: int, loss: float | None, now: float) -> None:
        """The stage has come to `step`."""
        self._loss = loss
        self._reports.append((now, step))

    def row(self, state: StageState) -> StageProgress:
        """The stage's row of the table; may be called from another thread."""
        (since, first_step), (until, step) = self._reports[0], self._reports[-1]
        rate = (step - first_step) / (until - since) if until > since else 0.0
        return StageProgress(self._stage, step, self._loss, max(0.0, rate), state)


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
) -> RunProgress:
    """The whole table, from the rows of all stages."""
    blocks = [row for row in rows if row.stage.kind in ("block", "network")]
    rate = sum(row.steps_per_second for row in blocks if row.state == "training")
    left = sum(total_steps - row.step for row in blocks)
    remaining = left / rate if rate > 0 else (0.0 if left == 0 else None)
    return RunProgress(total_steps, tuple(rows), elapsed_seconds, remaining, news.lines, news.told, waits_for)


class ProgressBoard:
    """The progress of stages that are trained in this process, or whose records are watched.

    Args:
        done: steps that each stage has done when the run begins, in the order of the table.
        total_steps: of every stage.
        now: monotonic seconds.
    """

    def __init__(self, done: dict[Stage, int], total_steps: int, now: float) -> None:
        self._meters = {stage: StageMeter(stage, step, now) for stage, step in done.items()}
        self._total_steps = total_steps
        self._started = now
        self._reported: set[Stage] = set()
        self.news = NewsBoard()

    def reported(self, stage: Stage, step: int, loss: float | None, now: float) -> None:
        """A stage has come to `step`."""
        self._reported.add(stage)
        self._meters[stage].reported(step, loss, now)

    def picture(self, now: float) -> RunProgress:
        """The table as it is now."""
        rows = []
        for stage, meter in self._meters.items():
            row = meter.row("training" if stage in self._reported else "starting")
            done = row.step >= self._total_steps
            rows.append(meter.row("done") if done else row)
        return run_progress(self._total_steps, rows, now - self._started, self.news)
