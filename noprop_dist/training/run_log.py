"""What both engines write down: metrics.jsonl, and the progress table with its news."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from noprop_dist.storage.checkpoint_files import Record
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.progress import ProgressBoard, RoundReport
from noprop_dist.training.setup import RunSetup


class RunLog:
    """Records of one run, buffered until `flush` appends them to metrics.jsonl.

    Records of rounds beyond where the run goes on are dropped from an earlier process's file.

    Args:
        setup: of the run.
        directory: of the run; this process is its only writer.
        done: steps that each stage has done when the run begins (resumed runs).
        listen: told of every record, those of an earlier process first.
    """

    def __init__(
        self,
        setup: RunSetup,
        directory: RunDirectory,
        done: Mapping[int, int],
        listen: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._names = {stage: setup.stage_name(stage) for stage in setup.stages}
        self._directory = directory
        self._buffer: list[Record] = []
        self._flushing = threading.Lock()
        self.board = ProgressBoard(self._names, setup.total_steps, done)
        self._listen = listen
        before = directory.forget_rounds_after({self._names[stage]: steps for stage, steps in done.items()})
        for record in before:
            listen(record)
        self._evaluated = {record["step"] for record in before if record["kind"] == "evaluation"}

    def round(self, report: RoundReport, **facts: Any) -> None:
        """Write down what a stage did in a round, and where."""
        self.board.update(report)
        record = {**asdict(report), "stage": self._names[report.stage], "step": report.steps_done, **facts}
        del record["embedding_gradient"]
        self._add("round", record)

    def snapshot(self, snapshot: Snapshot, seconds: float) -> None:
        """Write down that a snapshot was written, which took so long."""
        facts = {"stage": self._names[snapshot.stage], "step": snapshot.step}
        self._add("snapshot", {**facts, "bytes": snapshot.nbytes, "seconds": seconds})

    def event(self, kind: str, **facts: Any) -> None:
        """Write down something that happened: a worker that started or was lost, a stage that was stopped."""
        self._add(kind, facts)

    def news(self, *lines: str) -> None:
        """Tell people, and write it down."""
        for line in lines:
            self.board.tell(line)
            self._add("news", {"text": line})

    def evaluation(self, evaluation: CheckpointEvaluation) -> None:
        """Write down what was measured of a checkpoint."""
        self._evaluated.add(evaluation.step)
        self.board.tell(evaluation.summary())
        for record in evaluation.records():
            self._add(record.pop("kind"), record)

    def evaluated(self, step: int) -> bool:
        """Whether a checkpoint's figures are written down."""
        return step in self._evaluated

    def flush(self) -> None:
        """Append what is buffered to the file; may be called from another thread.

        Raises:
            OSError: it cannot be written; it stays in the buffer.
        """
        with self._flushing:
            records = self._buffer[:]
            if records:
                self._directory.append_metrics(records)
                del self._buffer[: len(records)]

    def _add(self, kind: str, facts: Record) -> None:
        record = {"kind": kind, **facts, "time": time.time()}
        self._buffer.append(record)
        self._listen(record)
