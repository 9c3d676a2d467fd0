"""What one stage has been sent and has done: decides its next round, and knows of no other stage."""

from collections.abc import Sequence

MAX_UNSAVED_SNAPSHOTS = 2
"""A stage waits where the storage is so far behind; this bounds the memory that snapshots take."""


class StageQueue:
    """Bounded queue of one stage's rounds; a round never crosses a checkpoint step.

    Args:
        checkpoint_steps: rising; the last one is the end of the run.
        round_steps: most steps in a round.
        prefetch: most rounds in flight.
        steps_done: where the stage begins.
    """

    def __init__(self, checkpoint_steps: Sequence[int], round_steps: int, prefetch: int, steps_done: int = 0) -> None:
        self._checkpoint_steps = checkpoint_steps
        self._round_steps = round_steps
        self._prefetch = prefetch
        self._sent = steps_done
        self._rounds_in_flight = 0
        self._unsaved_snapshots = 0

    @property
    def busy(self) -> bool:
        """Whether anything of this stage is still under way or to be sent."""
        unfinished = self._sent < self._checkpoint_steps[-1]
        return unfinished or self._rounds_in_flight > 0 or self._unsaved_snapshots > 0

    def next_round(self) -> tuple[int, int] | None:
        """(first step, steps) of the round to send now; None where nothing may be sent.

        The caller sends it; if it ends at a checkpoint step (`at_checkpoint`), a snapshot has to follow at once.
        """
        waits = self._rounds_in_flight >= self._prefetch or self._unsaved_snapshots >= MAX_UNSAVED_SNAPSHOTS
        if waits or self._sent >= self._checkpoint_steps[-1]:
            return None
        checkpoint = next(step for step in self._checkpoint_steps if step > self._sent)
        first, steps = self._sent, min(self._round_steps, checkpoint - self._sent)
        self._sent += steps
        self._rounds_in_flight += 1
        if self.at_checkpoint:
            self._unsaved_snapshots += 1
        return first, steps

    @property
    def at_checkpoint(self) -> bool:
        """Whether the last round that was sent ends at a checkpoint step."""
        return self._sent in self._checkpoint_steps

    def round_done(self) -> None:
        """A report came back."""
        self._rounds_in_flight -= 1

    def snapshot_saved(self) -> None:
        """A snapshot lies in the run directory."""
        self._unsaved_snapshots -= 1
