"""How far a run is: reports of rounds go in, a frozen picture for people comes out."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

StageState = Literal["starting", "training", "recovering", "moving", "waiting", "stopped", "done"]
WINDOW_REPORTS = 8
"""Throughput is that of a stage's last few reports."""
NEWS_KEPT = 100


@dataclass(frozen=True)
class RoundReport:
    """What one stage did in one round of steps.

    Attributes:
        stage: block number 1..T, T + 1 for the classifier, or T + 2 for a learned W_embed.
        first_step: 0-based.
        steps: that were done.
        loss: what was minimised, mean over the steps.
        error: ‖û_t − u_y‖² of a block, cross-entropy of the classifier, mean over the steps.
        gradient_norm: before clipping, mean over the steps.
        seconds: that the steps took.
        peak_memory_bytes: most that the process has had so far: of a GPU's memory, or else of the machine's.
        embedding_gradient: of the stage's term of Eq. 8 with respect to W_embed, summed over the steps since the
            version of W_embed began, (m, d) float32; None where W_embed is fixed.
    """

    stage: int
    first_step: int
    steps: int
    loss: float
    error: float
    gradient_norm: float
    seconds: float
    peak_memory_bytes: int = 0
    embedding_gradient: NDArray[np.float32] | None = None

    @property
    def steps_done(self) -> int:
        """Steps of the stage after this round."""
        return self.first_step + self.steps


@dataclass(frozen=True)
class StageProgress:
    """One row of the progress table; `steps_per_second` by the wall clock."""

    name: str
    step: int
    loss: float | None
    steps_per_second: float
    state: StageState


@dataclass(frozen=True)
class RunProgress:
    """The whole table.

    Attributes:
        total_steps: of every stage.
        stages: blocks, then the classifier, then W_embed where it is learned.
        elapsed_seconds: since this process began to train.
        remaining_seconds: at the present speed; None while that is unknown.
        news: the latest lines of it, such as evaluations and recoveries.
        news_told: lines so far; more than `news` holds, where that is cut.
    """

    total_steps: int
    stages: tuple[StageProgress, ...]
    elapsed_seconds: float
    remaining_seconds: float | None
    news: tuple[str, ...]
    news_told: int

    @property
    def blocks(self) -> tuple[StageProgress, ...]:
        """The rows of the blocks."""
        return blocks_of(self.stages)

    @property
    def block_steps_per_second(self) -> float:
        """Of all blocks together (the classifier's steps are not counted)."""
        return sum(stage.steps_per_second for stage in self.blocks)

    @property
    def fraction(self) -> float:
        """Share of all steps that is done."""
        return sum(stage.step for stage in self.stages) / (self.total_steps * len(self.stages))


def blocks_of(stages: Sequence[StageProgress]) -> tuple[StageProgress, ...]:
    """The rows that are blocks; or the network, where that is trained as one."""
    return tuple(stage for stage in stages if stage.name.startswith(("block", "network")))


class ProgressBoard:
    """Keeps the latest report of every stage.

    Args:
        names: of the stages, by stage.
        total_steps: of every stage.
        done: steps of each stage where the run begins (resumed runs).
    """

    def __init__(self, names: dict[int, str], total_steps: int, done: Mapping[int, int]) -> None:
        self._names = names
        self._total_steps = total_steps
        self._started = time.monotonic()
        self._loss: dict[int, float] = {}
        self._states: dict[int, StageState] = {}
        self._history = {stage: deque([(self._started, done[stage])], WINDOW_REPORTS + 1) for stage in names}
        self._news = deque[str](maxlen=NEWS_KEPT)
        self._news_told = 0
        self.tell("waiting for room and starting workers")

    def tell(self, line: str) -> None:
        """Add a line of news."""
        self._news.append(line)
        self._news_told += 1

    def state(self, stage: int, state: StageState) -> None:
        """A stage is in a state other than training; its next report ends that."""
        self._states[stage] = state

    def update(self, report: RoundReport) -> None:
        """Take in what a stage did."""
        self._loss[report.stage] = report.loss
        self._states[report.stage] = "training"
        self._history[report.stage].append((time.monotonic(), report.steps_done))

    def picture(self) -> RunProgress:
        """The table as it stands."""
        stages = tuple(self._row(stage) for stage in self._names)
        blocks = blocks_of(stages)
        rate = sum(row.steps_per_second for row in blocks if row.state == "training")
        left = sum(self._total_steps - row.step for row in blocks)
        return RunProgress(
            total_steps=self._total_steps,
            stages=stages,
            elapsed_seconds=time.monotonic() - self._started,
            remaining_seconds=left / rate if rate > 0 else (0.0 if left == 0 else None),
            news=tuple(self._news),
            news_told=self._news_told,
        )

    def _row(self, stage: int) -> StageProgress:
        (since, first_step), (until, step) = self._history[stage][0], self._history[stage][-1]
        rate = (step - first_step) / (until - since) if until > since else 0.0
        state = "done" if step >= self._total_steps else self._states.get(stage, "starting")
        return StageProgress(self._names[stage], step, self._loss.get(stage), max(0.0, rate), state)
