"""Weights & Biases, offline: nothing is sent. `wandb sync RUN/tracking/wandb/wandb/offline-run-*` uploads."""

import os
import uuid

from noprop_dist.records import Record, RunEnded
from noprop_dist.tracking.callback import RunInfo
from noprop_dist.tracking.figures import figures_of, hyper_parameters
from noprop_dist.tracking.folders import new_folder
from noprop_dist.tracking.tracker import Tracker, picture_files


class WandbCallback(Tracker):
    """Writes an offline run of W&B.

    Each process of a run writes it anew, from the records so far, under an identifier of its own: whatever a process
    that was killed has left, or somebody has uploaded meanwhile, one W&B run has one value for each record.

    Args:
        project: that the run belongs to.
    """

    def __init__(self, project: str = "noprop_dist") -> None:
        self._project = project

    def on_start(self, run: RunInfo) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._info, self._named = run, set[str]()
        folder = new_folder(run.folder / "wandb" / "wandb", "*").parent  # W&B adds the second one
        quiet = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True, save_code=False
        )
        self._wandb_run = wandb.init(
            project=self._project,
            id=uuid.uuid4().hex[:12],
            name=run.name,
            dir=str(folder),
            mode="offline",
            config=dict(hyper_parameters(run.config)),
            settings=quiet,
            reinit="create_new",
        )
        for record in run.earlier:
            self._add(record)

    def on_end(self, record: RunEnded) -> None:
        try:
            self._add_pictures()
        finally:
            self._wandb_run.finish(exit_code=0 if record.error is None else 1)

    def _add(self, record: Record) -> None:
        """Log the figures of a record against the steps of their own stage: W&B's own count knows no stages."""
        figures = figures_of(record, self._info.config.blocks.count)
        if figures is None:
            return
        step = f"step/{figures.axis}"
        for name in figures.values.keys() - self._named:
            self._wandb_run.define_metric(name, step_metric=step)
            self._named.add(name)
        self._wandb_run.log({**figures.values, step: figures.step})

    def _add_pictures(self) -> None:
        import wandb

        for name, file in picture_files(self._info.pictures()):
            self._wandb_run.log({name: wandb.Image(str(file))})
