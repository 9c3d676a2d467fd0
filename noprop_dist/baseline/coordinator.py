"""The actor that runs the back-propagation baseline, a Ray Train `TorchTrainer`, and tells how far it is."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from noprop_dist.baseline.network import assemble_end_to_end
from noprop_dist.baseline.worker import EndToEndJob, train_end_to_end
from noprop_dist.config.schema import EngineSettings, RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.engines.core.placement import Resources, ray_share, room, uses_gpus
from noprop_dist.engines.ray.callbacks import unpickled
from noprop_dist.engines.ray.cluster import cluster_resources
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.plan import RunPlan
from noprop_dist.records import Record, RoundDone, RunEnded, StageFailed, UnreadLine
from noprop_dist.stages import NETWORK, Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.trust import check_networks, remember
from noprop_dist.tracking.host import END_SECONDS, STOP_SECONDS, CallbackHost
from noprop_dist.tracking.trackers import callback_host, run_info
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
        callbacks: of the user's own, pickled; see `pickled`.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: str,
        resume: bool = False,
        *,
        trusted: bool = True,
        callbacks: bytes | None = None,
    ) -> None:
        self._config, self._callbacks = config, callbacks
        self._directory = RunDirectory(directory)
        self._resume, self._trusted = resume, trusted
        self._watch: _Watch | None = None
        self._stop = threading.Event()

    def progress(self) -> RunProgress | None:
        """The progress table; None until the data is loaded."""
        return self._watch.progress() if self._watch is not None else None

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
        with self._directory.only_writer():
            resources = cluster_resources()
            workers = processes(self._config.engine, resources, self._config.training.batch_size)
            if self._resume and self._directory.holds_run:
                go_on(setup.plan, self._directory)
            else:
                self._directory.create(self._config, setup.plan.facts)
            host = callback_host(setup.plan, unpickled(self._callbacks))
            self._watch = watch = _Watch(setup, self._directory, host)
            host.start(run_info(setup.plan, self._directory, data.held_out, _assembled(setup.plan)))
            trainer = _trainer(setup, data, self._directory, resources, workers)
            with _fitting(trainer) as (thread, outcome):
                while thread.is_alive() and not self._stop.is_set():
                    thread.join(POLL_SECONDS)
                    watch.progress()
            watch.progress()
            stopped = thread.is_alive()
            error = None if stopped else self._error(outcome[0], watch.step, setup.plan.total_steps)
            watch.end(RunEnded(step=watch.step, stopped=stopped, error=error, time=time.time()))
        if error is not None:
            raise TrainingError(error)
        evaluation = None if stopped else CheckpointEvaluation.last_of(self._directory.metrics())
        return RunOutcome(self._directory.link, watch.step, evaluation, stopped)

    def _error(self, outcome: ray.train.Result | Exception, step: int, total_steps: int) -> str | None:
        """Why the network is not trained to its end; None if it is."""
        if isinstance(outcome, Exception):
            return f"Ray Train gave up: {outcome}; {self._directory.resume_command} tries again"
        if step >= total_steps:
            return None
        causes = [record.cause for record in self._directory.metrics() if isinstance(record, StageFailed)]
        return f"the network was stopped: {causes[-1]}"


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

    Args:
        setup: of the run.
        directory: of the run.
        host: of its callbacks; gets every record once, those of an earlier process first.

    Attributes:
        step: steps that the network has done.
    """

    def __init__(self, setup: RunSetup, directory: RunDirectory, host: CallbackHost) -> None:
        self._directory, self._host = directory, host
        self._reading = threading.Lock()
        self._offset, self.step = 0, 0
        self._seen = set[Record]()
        self._new_rounds()
        self._board = ProgressBoard({NETWORK: self.step}, setup.plan.total_steps, time.monotonic())
        self._board.news.tell("waiting for room and starting workers")

    def progress(self) -> RunProgress:
        """How far the run is now."""
        with self._reading:
            for record in self._new_rounds():
                self._board.reported(NETWORK, record.step, record.loss, time.monotonic())
            for line in self._host.news():
                self._board.news.tell(line)
            return self._board.picture(time.monotonic())

    def end(self, record: RunEnded) -> None:
        """Write down that the run is over, and let the callbacks take in what is left."""
        with suppress(OSError):
            if not record.stopped:  # else the first process may still write
                self._directory.append_metrics([record])
        self._host.record(record)
        for line in self._host.close(STOP_SECONDS if record.stopped else END_SECONDS):
            self._board.news.tell(line)

    def _new_rounds(self) -> list[RoundDone]:
        """Rounds that were not read before; the callbacks get these and all else that is new."""
        records, self._offset = self._directory.metrics_from(self._offset)
        rounds = []
        for record in records:
            if isinstance(record, RoundDone) and record.step > self.step:
                self.step = record.step
                rounds.append(record)
            elif isinstance(record, RoundDone | UnreadLine | RunEnded) or record in self._seen:
                continue
            else:
                self._seen.add(record)
            self._host.record(record)
        return rounds


def _assembled(plan: RunPlan) -> Callable[[Mapping[Stage, Snapshot]], NoPropNetwork]:
    return lambda snapshots: assemble_end_to_end(plan, snapshots[NETWORK], torch.device("cpu"))
