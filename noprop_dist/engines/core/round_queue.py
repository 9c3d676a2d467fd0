"""The rounds of one stage: which one may be sent next, and which are under way. Knows of no other stage."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

MAX_UNSAVED_SNAPSHOTS = 2
"""Snapshots of a stage waiting to be written. A stage pauses at two, which bounds the memory that they take."""


class RoundQueue:
    """Bounded queue of one stage's rounds; a round never crosses a snapshot step.

    Args:
        snapshot_steps: rising; the last one is the end of the run.
        round_steps: most steps in a round.
        prefetch: most rounds in flight.
        steps_done: where the stage begins.
    """

    def __init__(self, snapshot_steps: Sequence[int], round_steps: int, prefetch: int, steps_done: int = 0) -> None:
        self._snapshot_steps = snapshot_steps
        self.round_steps = round_steps
        self._prefetch = prefetch
        self.rewind(steps_done)

    def rewind(self, step: int) -> None:
        """Begin again at a snapshot; what is under way will not be answered."""
        self._sent = self.steps_done = step
        self._rounds_in_flight = self._snapshots_in_flight = 0

    @property
    def idle(self) -> bool:
        """Return True if neither a round nor a snapshot is under way."""
        return self._rounds_in_flight == 0 and self._snapshots_in_flight == 0

    @property
    def is_full(self) -> bool:
        """Return True if no round more may be under way."""
        return self._rounds_in_flight >= self._prefetch

    @property
    def rounds_in_flight(self) -> int:
        """Rounds sent and not answered yet."""
        return self._rounds_in_flight

    @property
    def finished(self) -> bool:
        """Return True if all steps are done and the last snapshot is here."""
        return self.idle and self.steps_done >= self._snapshot_steps[-1]

    @property
    def steps_left(self) -> int:
        """Steps to the end of the run."""
        return self._snapshot_steps[-1] - self.steps_done

    @property
    def next_step(self) -> int:
        """The first step that no round was sent for."""
        return self._sent

    def next_round(self, unsaved_snapshots: int, up_to: int | None = None) -> tuple[int, int] | None:
        """(first step, steps) of the round to send now; None if nothing may be sent.

        The caller sends it; if it ends at a snapshot step (`at_snapshot`), a snapshot has to be asked for at once.

        Args:
            unsaved_snapshots: of this stage, waiting to be written.
            up_to: the step that the round may reach at most; None is the end of the run.
        """
        unsaved = unsaved_snapshots + self._snapshots_in_flight
        waits = self.is_full or unsaved >= MAX_UNSAVED_SNAPSHOTS
        end = self._snapshot_steps[-1] if up_to is None else up_to
        if waits or self._sent >= end:
            return None
        next_snapshot = self._snapshot_steps[bisect_right(self._snapshot_steps, self._sent)]
        first, steps = self._sent, min(self.round_steps, min(next_snapshot, end) - self._sent)
        self._sent += steps
        self._rounds_in_flight += 1
        return first, steps

    @property
    def at_snapshot(self) -> bool:
        """Return True if the last round that was sent ends at a snapshot step."""
        return self.snapshots_at(self._sent)

    def snapshots_at(self, step: int) -> bool:
        """Return True if a snapshot is taken at this step wherever the stage goes; no round crosses it."""
        place = bisect_left(self._snapshot_steps, step)
        return place < len(self._snapshot_steps) and self._snapshot_steps[place] == step

    def snapshot_asked(self) -> None:
        self._snapshots_in_flight += 1

    def snapshot_received(self) -> None:
        self._snapshots_in_flight -= 1

    def round_done(self, steps_done: int) -> None:
        self._rounds_in_flight -= 1
        self.steps_done = steps_done

    def round_refused(self) -> None:
        """A round came back undone: its worker was told to stop."""
        self._rounds_in_flight -= 1
