"""The writer of metrics.jsonl: the records of one run, buffered."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from noprop_dist.machine import HERE, Machine
from noprop_dist.records import CheckpointCompleted, Evaluated, ObjectiveMeasured, Record
from noprop_dist.stages import Stage
from noprop_dist.storage.run_directory import RunDirectory


class RunLog:
    """Records of one run, buffered until `flush` appends them to metrics.jsonl.

    In the file of an earlier process, rounds beyond the step at which a stage goes on are dropped: they are done again.

    Args:
        directory: of the run; this process is its only writer.
        done: steps that each stage has done when the run begins (resumed runs).
        listeners: called with every record, those of an earlier process first.
        machine: its clock.

    Attributes:
        warnings: of what was set aside of an earlier process's file.
        figures: evaluations of checkpoints, those of an earlier process first.
    """

    def __init__(
        self,
        directory: RunDirectory,
        done: Mapping[Stage, int],
        *listeners: Callable[[Record], None],
        machine: Machine = HERE,
    ) -> None:
        self._directory = directory
        self._buffer: list[Record] = []
        self._flushing = threading.Lock()
        self._listeners = listeners
        self._machine = machine
        directory.must_stay()
        before, self.warnings = directory.forget_rounds_after(done)
        for record in before:
            self._tell(record)
        self._completed = {record.step for record in before if isinstance(record, CheckpointCompleted)}
        self.figures = [record for record in before if isinstance(record, Evaluated | ObjectiveMeasured)]

    def add(self, record: Record) -> None:
        """Buffer a record, with the present time."""
        record = replace(record, time=self._machine.time())
        match record:
            case Evaluated() | ObjectiveMeasured():
                self.figures.append(record)
            case CheckpointCompleted(step=step):
                self._completed.add(step)
        self._buffer.append(record)
        self._tell(record)

    def _tell(self, record: Record) -> None:
        for listener in self._listeners:
            listener(record)

    def evaluated(self, step: int, *, final: bool) -> bool:
        """Return True if the accuracy of the checkpoint of `step` is written down.

        Args:
            step: of the checkpoint.
            final: whether it has to be measured as the last one of the run, on the whole test set.
        """
        measured = [each for each in self.figures if isinstance(each, Evaluated) and each.step == step]
        return any(each.final or not final for each in measured)

    def completed(self, step: int) -> bool:
        """Return True if it is written down that the checkpoint of `step` is complete."""
        return step in self._completed

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
