"""What the training loop knows of one stage."""

from collections import deque
from dataclasses import dataclass, field

from noprop_dist.engines.core.round_queue import StageQueue

RECENT_ROUNDS = 8
"""A round that was slow once (imports, a busy machine) must not make a hang go unnoticed for the rest of the run."""


@dataclass
class Stage:
    """One block or the classifier: where it is, how far, and what happened to it.

    Attributes:
        number: block 1..T, T + 1 for the classifier, or T + 2 for a learned W_embed.
        name: for people.
        queue: of its rounds.
        home: the worker that it should be on.
        worker: the worker that holds it; None while it waits for one.
        waiting_since: monotonic seconds; -inf where its worker's node has left, so that it goes to another at once.
        leaving: it is on its way to another worker: no more rounds, then a snapshot.
        reported: steps whose records are written down; a replay after a loss is not written down again.
        recent_step_seconds: mean time of a step in each of the last few rounds.
        failures: workers that were lost while they were at work on it.
        stopped: why it takes no further part.
        lost_at: when its worker was lost (monotonic seconds), until it trains again.
    """

    number: int
    name: str
    queue: StageQueue
    home: str
    worker: str | None = None
    waiting_since: float = 0.0
    leaving: bool = False
    reported: int = 0
    recent_step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_ROUNDS))
    failures: int = 0
    stopped: str | None = field(default=None)
    lost_at: float | None = None

    @property
    def slowest_step_seconds(self) -> float | None:
        """Of late; None before its first report."""
        return max(self.recent_step_seconds, default=None)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do for it."""
        return self.stopped is not None or self.queue.finished

    @property
    def waits(self) -> bool:
        """Whether it needs a worker and has none."""
        return self.worker is None and not self.over
