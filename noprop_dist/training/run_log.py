"""The writer of metrics.jsonl: the records of one run, buffered."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from noprop_dist.records import Evaluated, Record
from noprop_dist.stages import Stage
from noprop_dist.storage.run_directory import RunDirectory


class RunLog:
    """Records of one run, buffered until `flush` appends them to metrics.jsonl.

    In the file of an earlier process, rounds beyond the step at which a stage goes on are dropped: they are done again.

    Args:
        directory: of the run; this process is its only writer.
        done: steps that each stage has done when the run begins (resumed runs).
        listen: called with every record, those of an earlier process first.

    Attributes:
        warnings: of what was set aside of an earlier process's file.
    """

    def __init__(
        self,
        directory: RunDirectory,
        done: Mapping[Stage, int],
        listen: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._buffer: list[Record] = []
        self._flushing = threading.Lock()
        self._listen = listen
        directory.must_stay()
        before, self.warnings = directory.forget_rounds_after(done)
        for record in before:
            listen(record)
        self._evaluated = {(record.step, record.final) for record in before if isinstance(record, Evaluated)}

    def add(self, record: Record) -> None:
        """Buffer a record, with the present time."""
        record = replace(record, time=time.time())
        if isinstance(record, Evaluated):
            self._evaluated.add((record.step, record.final))
        self._buffer.append(record)
        self._listen(record)

    def evaluated(self, step: int, *, final: bool) -> bool:
        """Return True if the accuracy of the checkpoint of `step` is written down.

        Args:
            step: of the checkpoint.
            final: whether it has to be measured as the last one of the run, on the whole test set.
        """
        return (step, True) in self._evaluated or (not final and (step, False) in self._evaluated)

    def flush(self) -> None:
        """Append the buffered records to metrics.jsonl; may be called from another thread.

        Raises:
            OSError: they cannot be written; they stay in the buffer.
        """
        with self._flushing:
            records = self._buffer[:]
            if records:
                self._directory.append_metrics(records)
                del self._buffer[: len(records)]
