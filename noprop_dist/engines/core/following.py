"""What a driver makes of its coordinator's answers and of its silence, and how long it waits for a stop. No clock."""

from collections.abc import Callable

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.heartbeat import Heartbeat
from noprop_dist.errors import TrainingError
from noprop_dist.training.progress import RunProgress

AFTER_GRACE_SECONDS = 10.0
"""For a coordinator to end, beyond the `engine.grace_seconds` in which it snapshots the stages."""


class SilentError(Exception):
    """The coordinator does not answer any more."""


class HandedOverError(Exception):
    """The coordinator has saved all that there is and ended, for its node is about to leave; another one goes on."""


class Following:
    """One coordinator as its driver sees it. `now` is always in monotonic seconds.

    Args:
        engine: settings.
        on_progress: told how far the run is.
        say: told that the coordinator does not answer, and what it waits for.
        now: the time.
    """

    def __init__(
        self, engine: EngineSettings, on_progress: Callable[[RunProgress], None], say: Callable[[str], None], now: float
    ) -> None:
        self._grace_seconds = engine.grace_seconds
        self._on_progress = on_progress
        self._say = say
        self._told: str | None = None
        self._deadline: float | None = None
        self._heartbeat = Heartbeat(engine.start_timeout_seconds, engine.coordinator_timeout_seconds, now)

    def answered(self, progress: RunProgress | str | None, now: float) -> None:
        """Take in the answer to the question how far the run is: a table, what it waits for, or nothing yet."""
        self._heartbeat.answered(now)
        if isinstance(progress, RunProgress):
            self._on_progress(progress)
        elif progress not in (None, self._told):
            self._told = progress
            self._say(progress)

    def not_answered(self, now: float) -> None:
        """Tell people of the silence.

        Raises:
            SilentError: it has lasted too long.
        """
        if (word := self._heartbeat.word(now)) is not None:
            self._say(word)
        if self._heartbeat.is_over(now):
            raise SilentError(self._heartbeat.cause)

    def tells_to_stop(self, stopped: bool, now: float) -> bool:
        """Return True if the coordinator is to be told now, once, to end the run.

        Args:
            stopped: whether the run is to end.
            now: the time.

        Raises:
            TrainingError: it was told, and has not ended in time.
        """
        if stopped and self._deadline is None:
            self._deadline = now + self._grace_seconds + AFTER_GRACE_SECONDS
            return True
        if self._deadline is not None and now > self._deadline:
            raise TrainingError(
                f"the coordinator did not end within engine.grace_seconds={self._grace_seconds:g}; "
                "`noprop-dist resume` continues the run from the snapshots that there are"
            )
        return False
