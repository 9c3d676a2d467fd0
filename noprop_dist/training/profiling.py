"""Profiles some steps of one block (`engine.profile`): a trace that Perfetto and chrome://tracing open."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.beside import leave_file, say
from noprop_dist.training.embedding import EmbeddingCopy
from noprop_dist.training.replicas import OneReplica
from noprop_dist.training.trainers import StageTrainer, StepInputs

STEPS_BEFORE = 6
"""Steps that are not profiled: they make what is made once, and on a GPU capture the step."""


class ProfiledTrainer:
    """A block's trainer, some of whose steps are profiled; what it computes stays the same.

    Args:
        trainer: of the block.
        file: of the trace, by its name in the run directory.
        steps: to profile.
        end: step at which the run ends; a run with few steps left is profiled at once.
    """

    def __init__(self, trainer: StageTrainer, file: str, steps: int, end: int) -> None:
        self._trainer = trainer
        self._file, self._steps, self._end = file, steps, end
        self._begins_at: int | None = None
        self._profile: profile | None = None

    def __del__(self) -> None:
        """Profile no further: the block moves to another worker, or the run was stopped."""
        if self._profile is not None:
            with suppress(RuntimeError):
                self._profile.stop()

    @property
    def group(self) -> OneReplica:
        return self._trainer.group

    @property
    def stage(self) -> Stage:
        return self._trainer.stage

    @property
    def embedding(self) -> EmbeddingCopy | None:
        return self._trainer.embedding

    def inputs(self, work: Round) -> Iterator[StepInputs]:
        """See `StageTrainer`."""
        return self._trainer.inputs(work)

    def step(self, inputs: StepInputs) -> Tensor:
        """One step; see `StageTrainer`."""
        if self._begins_at is None:
            self._begins_at = min(inputs.step + STEPS_BEFORE, max(inputs.step, self._end - self._steps))
        if inputs.step == self._begins_at:
            self._begin()
        if self._profile is None:
            return self._trainer.step(inputs)
        with record_function(f"step {inputs.step} of {self.stage.name}"):
            losses = self._trainer.step(inputs)
        if inputs.step + 1 in (self._begins_at + self._steps, self._end):
            self._finish(inputs.step + 1)
        return losses

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory."""
        return self._trainer.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of this stage."""
        self._trainer.restore(snapshot)

    def _begin(self) -> None:
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        begun = profile(activities=[ProfilerActivity.CPU, *gpu])
        try:
            begun.start()
        except RuntimeError as error:
            say(f"is not profiled: {error}")
            return
        self._profile = begun

    def _finish(self, end: int) -> None:
        assert self._profile is not None
        ended, self._profile = self._profile, None
        try:
            ended.stop()
            with tempfile.TemporaryDirectory() as folder:
                trace = Path(folder) / "trace.json.gz"
                ended.export_chrome_trace(str(trace))
                leave_file(self._file, trace.read_bytes())
        except (RuntimeError, OSError) as error:
            say(f"is not profiled: {error}")
            return
        say(f"the profile of steps {self._begins_at} to {end - 1} is in {self._file}")
