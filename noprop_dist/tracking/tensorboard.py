"""TensorBoard: `tensorboard --logdir RUN/tracking/tensorboard`, or `--logdir runs` for all runs beside each other."""

import struct
import time
from typing import Any

from noprop_dist.records import Record, RunEnded
from noprop_dist.tracking.callback import RunInfo
from noprop_dist.tracking.figures import figures_of, hyper_parameters
from noprop_dist.tracking.folders import new_folder
from noprop_dist.tracking.tracker import Tracker

FLUSH_SECONDS = 5
RGBA = 4
COMPARED = ("accuracy/validation-mean", "accuracy/test-mean", "objective/elbo")
"""Figures in the table of hyper-parameters."""


class TensorBoardCallback(Tracker):
    """Writes an event file.

    Each process of a run writes it anew, from the records so far: whatever a process that was killed has left, there
    is one value for each record. A TensorBoard that is open forgets what the old file said.
    """

    def on_start(self, run: RunInfo) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._run, self._event, self._summary = run, Event, Summary
        folder = new_folder(run.folder / "tensorboard", "events.out.tfevents.*")
        self._writer = EventFileWriter(str(folder), flush_secs=FLUSH_SECONDS)
        begun = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=0, session_log=begun))
        self._add_hyper_parameters()
        for record in run.earlier:
            self._add(record)

    def on_end(self, record: RunEnded) -> None:
        try:
            for name, png in self._run.pictures().items():
                width, height = struct.unpack(">II", png[16:24])
                image = self._summary.Image(height=height, width=width, colorspace=RGBA, encoded_image_string=png)
                self._put(record.step, record.time, [self._summary.Value(tag=name, image=image)])
        finally:
            self._writer.close()

    def _add(self, record: Record) -> None:
        figures = figures_of(record, self._run.config.blocks.count)
        if figures is not None:
            values = [self._summary.Value(tag=name, simple_value=value) for name, value in figures.values.items()]
            self._put(figures.step, figures.time, values)

    def _put(self, step: int, seconds: float, values: list[Any]) -> None:
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=seconds, step=step, summary=summary))

    def _add_hyper_parameters(self) -> None:
        from torch.utils.tensorboard.summary import hparams

        for part in hparams(hyper_parameters(self._run.config), dict.fromkeys(COMPARED)):  # type: ignore[no-untyped-call]
            self._writer.add_event(self._event(wall_time=time.time(), summary=part))
