"""The coordinator actor: prepares a run, creates its workers, and sees it through to its end."""

import ray

from noprop_dist.configuration.settings import RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.distributed.messages import RunOutcome
from noprop_dist.distributed.room import Room
from noprop_dist.distributed.training_loop import TrainingLoop
from noprop_dist.distributed.workers import create_workers
from noprop_dist.metrics.exporter import MetricsExporter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup, prepare


class Coordinator:
    """Runs one training run; `progress` may be asked meanwhile from another thread.

    Args:
        config: of the run.
        directory: of the run, on storage that this node reaches.
        room: reserved for its block workers.
        resume: continue the run that lies there from its last checkpoint.
    """

    def __init__(self, config: RunConfig, directory: str, room: Room, resume: bool = False) -> None:
        self._config = config
        self._directory = RunDirectory(directory)
        self._room = room
        self._resume = resume
        self._log: RunLog | None = None

    def progress(self) -> RunProgress | None:
        """The progress table; None until the data is loaded."""
        return self._log.board.picture() if self._log is not None else None

    def run(self) -> RunOutcome:
        """Train to the end.

        Raises:
            UserError: configuration, data or run directory cannot be used; nothing was started.
            TrainingError: a stage failed or an actor was lost; names it and the cause.
        """
        setup, data = prepare(self._config)
        snapshots = self._begin(setup)
        done = max((snapshot.step for snapshot in snapshots.values()), default=0)
        self._log = RunLog(setup, self._directory, done)
        evaluation = None
        if done < setup.total_steps:
            evaluation = self._train(setup, data, snapshots, self._log)
        return RunOutcome(str(self._directory), setup.total_steps, evaluation)

    def _begin(self, setup: RunSetup) -> dict[int, Snapshot]:
        """Create the run directory, or read where its run stopped."""
        if not self._resume:
            self._directory.create(setup.config, setup.facts)
            return {}
        return self._directory.last_snapshots()

    def _train(
        self, setup: RunSetup, data: DataSet, snapshots: dict[int, Snapshot], log: RunLog
    ) -> CheckpointEvaluation | None:
        exporter = self._exporter(setup)
        workers = create_workers(setup, data, str(self._directory), self._room)
        log.board.note = self._room.placement.reason + (f"; metrics at {exporter.address}" if exporter else "")
        try:
            return TrainingLoop(setup, workers, data.train.labels, self._directory, log, exporter).run(snapshots)
        finally:
            log.flush()
            for actor in workers.actors.values():
                ray.kill(actor)
            if exporter is not None:
                exporter.close()

    def _exporter(self, setup: RunSetup) -> MetricsExporter | None:
        metrics = setup.config.metrics
        if metrics.port is None:
            return None
        names = {stage: setup.stage_name(stage).removeprefix("block ") for stage in setup.stages}
        return MetricsExporter(str(self._directory).rpartition("/")[2], names, metrics.host, metrics.port)
