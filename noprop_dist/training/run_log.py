"""What both engines write down: metrics.jsonl and the progress table."""

import time
from dataclasses import asdict

from noprop_dist.storage.run_directory import Record, RunDirectory
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.progress import ProgressBoard, RoundReport
from noprop_dist.training.setup import RunSetup

FLUSH_SECONDS = 2.0


class RunLog:
    """Records of one run, buffered for a moment and appended to metrics.jsonl.

    Args:
        setup: of the run.
        directory: of the run.
        steps_done: where the run begins (resumed runs).
    """

    def __init__(self, setup: RunSetup, directory: RunDirectory, steps_done: int = 0) -> None:
        self._setup = setup
        self._directory = directory
        self._buffer: list[Record] = []
        self._flushed = time.monotonic()
        names = {stage: setup.stage_name(stage) for stage in setup.stages}
        self.board = ProgressBoard(names, setup.total_steps, steps_done)

    def round(self, report: RoundReport) -> None:
        """Write down what a stage did in a round."""
        self.board.update(report)
        record = {"kind": "round", **asdict(report), "stage": self._setup.stage_name(report.stage)}
        self._buffer.append(record | {"step": report.steps_done, "time": time.time()})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def worker(self, name: str, facts: Record) -> None:
        """Write down where an actor runs."""
        self._buffer.append({"kind": "worker", "worker": name, **facts, "time": time.time()})
        self.flush()

    def failure(self, stage_name: str, step: int, trace: str) -> None:
        """Write down why a stage stopped, with the traceback of where it did."""
        self._buffer.append({"kind": "failure", "stage": stage_name, "step": step, "trace": trace, "time": time.time()})
        self.flush()

    def evaluation(self, evaluation: CheckpointEvaluation) -> None:
        """Write down what was measured of a checkpoint."""
        self.board.note = evaluation.summary()
        self._buffer += evaluation.records()
        self.flush()

    def flush(self) -> None:
        """Append what is buffered to the file."""
        if self._buffer:
            self._directory.append_metrics(self._buffer)
        self._buffer, self._flushed = [], time.monotonic()
