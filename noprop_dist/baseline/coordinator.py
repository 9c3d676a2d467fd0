"""The actor that runs the back-propagation baseline, a Ray Train `TorchTrainer`, and tells how far it is."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.train
from ray.train.torch import TorchTrainer

from noprop_dist.baseline.worker import EndToEndJob, train_end_to_end
from noprop_dist.config.schema import EngineSettings, RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.engines.core.placement import Resources, ray_share, room, uses_gpus
from noprop_dist.engines.ray.cluster import cluster_resources
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.records import RoundDone, StageFailed
from noprop_dist.stages import NETWORK
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.trust import check_networks, remember
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.progress import ProgressBoard, RunProgress
from noprop_dist.training.setup import RunSetup, go_on, prepare

POLL_SECONDS = 0.5
RAY_TRAIN_FOLDER = "ray-train"
"""In the run directory: Ray Train's own checkpoints, from which it goes on by itself."""


class EndToEndCoordinator:
    """Runs one run of the baseline; `progress` and `stop` may be called meanwhile from other threads.

    It is an actor, as `Coordinator` is. Ray Train's controller belongs to the process that calls `fit` and ends with
    it. So a stop leaves nothing behind, in whatever state Ray Train is.

    Args:
        config: of the run; its method is backprop.
        directory: of the run, on storage that this node and the first process's reach.
        resume: go on from Ray Train's last checkpoint there, if there is one.
        trusted: whether the user named the networks, or gave `--trust-code`.
    """

    def __init__(self, config: RunConfig, directory: str, resume: bool = False, *, trusted: bool = True) -> None:
        self._config = config
        self._directory = RunDirectory(directory)
        self._resume, self._trusted = resume, trusted
        self._watch: _Watch | None = None
        self._waits_for: str | None = None
        self._stop = threading.Event()

    def progress(self) -> RunProgress | str | None:
        """The progress table; before there is one, what the run waits for, if it does."""
        return self._watch.progress() if self._watch is not None else self._waits_for

    def stop(self) -> None:
        """Let `run` return; the run goes on from Ray Train's last checkpoint."""
        self._stop.set()

    def run(self) -> RunOutcome:
        """Train to the end, or until told to stop.

        Raises:
            UserError: configuration, data or run directory cannot be used.
            TrainingError: the loss was not finite, or processes were lost more than engine.max_failures times.
        """
        check_networks(self._config, self._directory, self._trusted)
        if not self._resume:
            remember(self._config)  # this node's user may be another one than the driver's
        setup, data = prepare(self._config)
        with self._directory.only_writer(self._wait_for):
            resources = cluster_resources()
            workers = processes(self._config.engine, resources, self._config.training.batch_size)
            if self._resume and self._directory.holds_run:
                go_on(setup.plan, self._directory)
            else:
                self._directory.create(self._config, setup.plan.facts)
            self._watch = watch = _Watch(setup, self._directory)
            trainer = _trainer(setup, data, self._directory, resources, workers)
            with _fitting(trainer) as (thread, outcome):
                while thread.is_alive() and not self._stop.is_set():
                    thread.join(POLL_SECONDS)
            watch.progress()
            if thread.is_alive():
                return RunOutcome(self._directory.link, watch.step, None, stopped=True)
        if isinstance(outcome[0], Exception):
            raise TrainingError(f"Ray Train gave up: {outcome[0]}; {self._directory.resume_command} tries again")
        records = self._directory.metrics()
        if watch.step < setup.plan.total_steps:
            causes = [record.cause for record in records if isinstance(record, StageFailed)]
            raise TrainingError(f"the network was stopped: {causes[-1]}")
        return RunOutcome(self._directory.link, setup.plan.total_steps, CheckpointEvaluation.last_of(records))

    def _wait_for(self, what: str) -> None:
        self._waits_for = what


def processes(engine: EngineSettings, resources: Resources, batch_size: int) -> int:
    """How many processes train together.

    Raises:
        UserError: the batch cannot be shared out evenly.
    """
    if engine.workers != "auto":
        if batch_size % engine.workers:
            raise UserError(
                f"engine.workers={engine.workers}: does not divide training.batch_size={batch_size}, "
                "which method=backprop shares out evenly"
            )
        return engine.workers
    most = min(room(engine, resources), batch_size)
    return next(n for n in range(most, 0, -1) if batch_size % n == 0)


def _trainer(
    setup: RunSetup, data: DataSet, directory: RunDirectory, resources: Resources, workers: int
) -> TorchTrainer:
    engine = setup.config.engine
    cpus = min(float(engine.threads_per_worker), resources.cpus / workers)
    place = directory.root
    return TorchTrainer(
        train_end_to_end,
        train_loop_config={"job": EndToEndJob(setup, place, ray.put(data.train), ray.put(data.held_out))},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=uses_gpus(engine, resources),
            resources_per_worker={"CPU": ray_share(cpus)},
        ),
        run_config=ray.train.RunConfig(
            name=RAY_TRAIN_FOLDER,
            storage_path=place,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=setup.config.checkpoint.num_to_keep),
            failure_config=ray.train.FailureConfig(max_failures=engine.max_failures),
        ),
    )


@contextmanager
def _fitting(trainer: TorchTrainer) -> Iterator[tuple[threading.Thread, list[ray.train.Result | Exception]]]:
    """Run `fit` in a thread, so that this one can react to a stop; its outcome becomes the list's only entry."""
    outcome: list[ray.train.Result | Exception] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except Exception as error:  # whatever it is, it is told in the other thread
            outcome.append(error)

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    yield thread, outcome


class _Watch:
    """Reads the records that the group's first process appends; may be asked from several threads.

    After a restart that process drops rounds which it does again, so the file may become shorter. Reading may then
    begin in the middle of a line, which gives an `UnreadLine`. Rounds may be missed, but never the last ones.

    Attributes:
        step: steps that the network has done.
    """

    def __init__(self, setup: RunSetup, directory: RunDirectory) -> None:
        self._directory = directory
        self._reading = threading.Lock()
        self._offset = 0
        self.step = max((record.step for record in self._new_rounds()), default=0)
        self._board = ProgressBoard({NETWORK: self.step}, setup.plan.total_steps, time.monotonic())
        self._board.news.tell("waiting for room and starting workers")

    def progress(self) -> RunProgress:
        """How far the run is now."""
        with self._reading:
            for record in self._new_rounds():
                if record.step > self.step:
                    self.step = record.step
                    self._board.reported(NETWORK, record.step, record.loss, time.monotonic())
            return self._board.picture(time.monotonic())

    def _new_rounds(self) -> list[RoundDone]:
        records, self._offset = self._directory.metrics_from(self._offset)
        return [record for record in records if isinstance(record, RoundDone)]
