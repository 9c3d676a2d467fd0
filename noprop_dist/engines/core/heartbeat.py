"""Whether the coordinator still answers: what is said of its silence, and when that has lasted too long. No clock."""

FIRST_WORD_SECONDS = 8.0
NEXT_WORD_SECONDS = 30.0
LEAST_START_SECONDS = 60.0
"""A process that imports torch on a loaded machine takes so long, however soon the run's first worker is wanted."""


class Heartbeat:
    """The answers of one coordinator to its driver.

    Args:
        start_seconds: that it may take to answer for the first time, if that is more than the least.
        silence_seconds: that it may be silent after that.
        now: monotonic seconds.
    """

    def __init__(self, start_seconds: float, silence_seconds: float, now: float) -> None:
        self._allowed_seconds = max(start_seconds, LEAST_START_SECONDS)
        self._silence_seconds = silence_seconds
        self._heard_at = now
        self._speak_at = now + FIRST_WORD_SECONDS
        self._has_answered = False

    def answered(self, now: float) -> None:
        self._has_answered = True
        self._allowed_seconds = self._silence_seconds
        self._heard_at = now
        self._speak_at = now + FIRST_WORD_SECONDS

    def word(self, now: float) -> str | None:
        """What people are told of the silence now; None if there is nothing new to tell."""
        if now < self._speak_at:
            return None
        self._speak_at = now + NEXT_WORD_SECONDS
        silent = f"for {now - self._heard_at:.0f} s"
        bound = f"it has {self._allowed_seconds:.0f} s"
        if self._has_answered:
            return f"the coordinator has not answered {silent}: its process or the network is stuck; {bound}"
        return f"the coordinator's process has been starting {silent}; {bound}"

    def is_over(self, now: float) -> bool:
        """Return True if the silence has lasted too long."""
        return now - self._heard_at > self._allowed_seconds

    @property
    def cause(self) -> str:
        """Why the coordinator is given up, once the silence is over."""
        return f"it did not answer for {self._allowed_seconds:.0f} s"
