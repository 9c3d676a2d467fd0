"""The actor that runs the back-propagation baseline, a Ray Train `TorchTrainer`, and tells how far it is."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from noprop_dist.baseline.network import assemble_end_to_end
from noprop_dist.baseline.placement import Processes, place_baseline
from noprop_dist.baseline.worker import EndToEndJob, train_end_to_end
from noprop_dist.config.bits import as_begun, with_workers
from noprop_dist.config.schema import RunConfig
from noprop_dist.engines.coordination import goes_on
from noprop_dist.engines.ray.callbacks import unpickled
from noprop_dist.engines.ray.cluster import cluster_resources
from noprop_dist.errors import TrainingError
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.metrics.exporter import MetricsExporter, exporting
from noprop_dist.metrics.live import LiveStage
from noprop_dist.records import Phase, Record, RoundDone, RunEnded, StageFailed, UnreadLine
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import NETWORK, Stage
from noprop_dist.storage.metrics_files import BEGINNING
from noprop_dist.storage.run_directory import RAY_TRAIN_FOLDER, RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.trust import check_networks
from noprop_dist.tracking.host import END_SECONDS, STOP_SECONDS, CallbackHost
from noprop_dist.tracking.trackers import callback_host, run_info
from noprop_dist.training.fine_tuning import begin
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.progress import ProgressBoard, RunProgress
from noprop_dist.training.setup import NOTHING, Given, RunSetup, go_on, prepare

POLL_SECONDS = 0.5


class EndToEndCoordinator:
    """Runs one run of the baseline; `progress` and `stop` may be called meanwhile from other threads.

    It is an actor, as `Coordinator` is. Ray Train's controller belongs to the process that calls `fit` and ends with
    it. So a stop leaves nothing behind, in whatever state Ray Train is.

    Args:
        config: of the run; its method is backprop.
        directory: of the run, on storage that this node and the first process's reach.
        resume: go on from the newest snapshot there, if there is one.
        trusted: whether the user named the networks, or gave `--trust-code`.
        given: what was handed over in Python.
        callbacks: of the user's own, pickled; see `pickled`.
        has_begun: whether a run must lie there; see `goes_on`.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: str,
        resume: bool = False,
        *,
        trusted: bool = True,
        given: Given = NOTHING,
        callbacks: bytes | None = None,
        has_begun: bool = False,
        phases: Sequence[Phase] = (),  # noqa: ARG002 (a timeline is of block workers)
    ) -> None:
        self._config, self._callbacks = config, callbacks
        self._directory = RunDirectory(directory)
        self._resume, self._has_begun, self._trusted, self._given = resume, has_begun, trusted, given
        self._watch: _Watch | None = None
        self._waits_for: str | None = None
        self._stop = threading.Event()

    def progress(self) -> RunProgress | str | None:
        """The progress table; before there is one, what the run waits for, if it does."""
        return self._watch.progress() if self._watch is not None else self._waits_for

    def stop(self) -> None:
        """Let `run` return; the run goes on from its newest snapshot."""
        self._stop.set()

    def run(self) -> RunOutcome:
        """Train to the end, or until told to stop.

        Raises:
            UserError: configuration, data or run directory cannot be used.
            TrainingError: the loss was not finite, or processes were lost more than engine.max_failures times, or did
                not start within engine.start_timeout_seconds.
        """
        check_networks(self._config, self._directory, self._trusted)
        config, processes = self._settled()
        setup, data = prepare(config, self._given)
        served = exporting(str(self._directory), setup.plan, ray.util.get_node_ip_address(), self._stop)
        with self._directory.only_writer(self._wait_for), served as exporter:
            if goes_on(self._directory, resume=self._resume, has_begun=self._has_begun):
                go_on(setup.plan, self._directory)
            else:
                begin(setup.plan, self._directory)
            snapshots, warnings = setup.checkpoint_writer(self._directory).take_over()
            self._directory.without_ray_train()
            job = EndToEndJob(setup, self._directory.root, *map(ray.put, (data.train, data.held_out, snapshots)))
            trainer = _trainer(job, processes)
            host = callback_host(setup.plan, unpickled(self._callbacks))
            self._watch = watch = _Watch(setup, self._directory, str(processes), warnings, host, exporter)
            host.start(run_info(setup.plan, self._directory, data.held_out, _assembled(setup.plan)))
            with _fitting(trainer) as (thread, outcome):
                while thread.is_alive() and not self._stop.is_set():
                    thread.join(POLL_SECONDS)
                    watch.progress()
                    watch.check_start(time.monotonic())
            watch.progress()
            stopped = thread.is_alive()
            error = None if stopped else self._error(outcome[0], watch.step, setup.plan.total_steps)
            watch.end(RunEnded(step=watch.step, stopped=stopped, error=error, time=time.time()))
        if error is not None:
            raise TrainingError(error)
        evaluation = None if stopped else CheckpointEvaluation.last_of(self._directory.metrics())
        return RunOutcome(self._directory.link, watch.step, evaluation, stopped)

    def _settled(self) -> tuple[RunConfig, Processes]:
        """The run's configuration, which names its number of processes from its beginning on: bits depend on it."""
        if self._resume and self._directory.holds_run:
            config = as_begun(self._config, self._directory.config())
            return config, place_baseline(config, cluster_resources())
        processes = place_baseline(self._config, cluster_resources())
        return with_workers(self._config, processes.count), processes

    def _error(self, outcome: ray.train.Result | Exception, step: int, total_steps: int) -> str | None:
        """Why the network is not trained to its end; None if it is."""
        if isinstance(outcome, Exception):
            return f"Ray Train gave up: {outcome}; {self._directory.resume_command} tries again"
        if step >= total_steps:
            return None
        causes = [record.cause for record in self._directory.metrics() if isinstance(record, StageFailed)]
        return f"the network was stopped: {causes[-1]}"

    def _wait_for(self, what: str) -> None:
        self._waits_for = what


def _trainer(job: EndToEndJob, processes: Processes) -> TorchTrainer:
    config = job.setup.config
    return TorchTrainer(
        train_end_to_end,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=processes.count,
            use_gpu=processes.on_gpu,
            resources_per_worker={"CPU": processes.cpus},
        ),
        run_config=ray.train.RunConfig(
            name=RAY_TRAIN_FOLDER,
            storage_path=job.directory,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.checkpoint.num_to_keep),
            failure_config=ray.train.FailureConfig(max_failures=config.engine.max_failures),
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
        asked_for: what Ray Train asks the cluster for.
        warnings: for people.
        host: of its callbacks; gets every record once, those of an earlier process first.
        exporter: of its metrics, which gets the same; None if there is none.

    Attributes:
        step: steps that the network has done.
    """

    def __init__(
        self,
        setup: RunSetup,
        directory: RunDirectory,
        asked_for: str,
        warnings: Sequence[str],
        host: CallbackHost,
        exporter: MetricsExporter | None = None,
    ) -> None:
        self._exporter = exporter
        self._directory, self._engine, self._asked_for, self._host = directory, setup.config.engine, asked_for, host
        self._reading = threading.Lock()
        self._place, self.step, self._started = BEGINNING, 0, False
        self._seen = set[Record]()
        self._new_rounds()
        self._started = False  # what is there already is of an earlier process
        self._began = time.monotonic()
        self._board = ProgressBoard({NETWORK: self.step}, setup.plan.total_steps, self._began)
        for warning in warnings:
            self._board.news.tell(warning)
        served = ""
        if exporter is not None:
            exporter.show_live(self._live)
            served = f"; metrics at {exporter.address}"
        self._board.news.tell(f"waiting for room for {asked_for}, and starting them{served}")

    def progress(self) -> RunProgress:
        """How far the run is now."""
        with self._reading:
            if self._exporter is not None:
                self._exporter.loop_turned()
            for record in self._new_rounds():
                self._board.reported(NETWORK, record.step, record.loss, time.monotonic())
            for line in self._host.news():
                self._board.news.tell(line)
            picture = self._board.picture(time.monotonic())
        return picture if self._started else replace(picture, waits_for=f"waiting for {self._asked_for}")

    def _live(self) -> list[LiveStage]:
        """The present state, for a scrape; called from another thread."""
        rows = self._board.picture(time.monotonic()).stages
        return [LiveStage(row.stage, row.state, row.step, rounds_in_flight=0, sent_bytes=0) for row in rows]

    def check_start(self, now: float) -> None:
        """End the wait for processes that do not start.

        Raises:
            TrainingError: no process has started within engine.start_timeout_seconds.
        """
        timeout = self._engine.start_timeout_seconds
        if self._started or now - self._began < timeout or self.progress().waits_for is None:
            return
        found = cluster_resources()
        raise TrainingError(
            f"the baseline did not start within engine.start_timeout_seconds={timeout:g}: it asks for "
            f"{self._asked_for}, the cluster has {found.cpus:g} core(s) and {found.gpus:g} GPU(s) in all, and other "
            f"runs may hold them; {self._directory.resume_command} tries again"
        )

    def end(self, record: RunEnded) -> None:
        """Write down that the run is over, and let the callbacks take in what is left."""
        with suppress(OSError):
            if not record.stopped:  # else the first process may still write
                # A new one: in an object store it writes behind what the first process wrote, not before.
                RunDirectory(self._directory.root).append_metrics([record])
        self._host.record(record)
        for line in self._host.close(STOP_SECONDS if record.stopped else END_SECONDS):
            self._board.news.tell(line)

    def _new_rounds(self) -> list[RoundDone]:
        """Rounds that were not read before; the callbacks get these and all else that is new."""
        records, self._place = self._directory.metrics_from(self._place)
        self._started |= bool(records)  # the first process writes as soon as all have started
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
            if self._exporter is not None:
                self._exporter.record(record)
        return rounds


def _assembled(plan: RunPlan) -> Callable[[Mapping[Stage, Snapshot]], NoPropNetwork]:
    return lambda snapshots: assemble_end_to_end(plan, snapshots[NETWORK], torch.device("cpu"))
