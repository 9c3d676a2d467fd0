"""The coordinator actor: prepares a run, asks the core what is to be done, and has it done."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import ray
import torch

from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.engines.command_runner import CommandRunner
from noprop_dist.engines.coordination import collect_seldom, enter, follow_core, goes_on, placement_of, take_over
from noprop_dist.engines.core.commands import End
from noprop_dist.engines.core.drawing import who_draws
from noprop_dist.engines.core.following import HandedOverError
from noprop_dist.engines.core.placement import Placement, Resources
from noprop_dist.engines.core.run import Run
from noprop_dist.engines.ray.actors import RayActors, WorkerClasses
from noprop_dist.engines.ray.callbacks import unpickled
from noprop_dist.engines.ray.cluster import cluster_resources, see_cluster
from noprop_dist.engines.ray.workers import worker_facts
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.errors import TrainingError
from noprop_dist.inference.load import assemble_network
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.machine import HERE
from noprop_dist.metrics.exporter import MetricsExporter, exporting
from noprop_dist.metrics.live import LiveStage
from noprop_dist.phases import phase
from noprop_dist.records import News, Phase, WorkerReady, noted_phases
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.trust import check_networks
from noprop_dist.tracking.host import END_SECONDS, STOP_SECONDS, CallbackHost
from noprop_dist.tracking.trackers import callback_host, run_info
from noprop_dist.training.footprint import block_footprints, worker_bytes
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import NOTHING, Given, RunSetup, prepare


class Coordinator:
    """Runs one training run; `progress` and `stop` may be called meanwhile from other threads.

    Args:
        config: of the run.
        directory: of the run, on storage that this node reaches.
        resume: continue the run that lies there, if one does.
        worker_classes: of the run's workers.
        trusted: whether the user named the networks, or gave `--trust-code`.
        given: what was handed over in Python.
        callbacks: of the user's own, pickled; see `pickled`.
        has_begun: whether a run must lie there; see `goes_on`.
        phases: of the driver's start.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: str,
        resume: bool = False,
        worker_classes: WorkerClasses | None = None,
        trusted: bool = True,
        given: Given = NOTHING,
        callbacks: bytes | None = None,
        has_begun: bool = False,
        *,
        phases: Sequence[Phase] = (),
    ) -> None:
        self._callbacks = callbacks
        self._phases = phases
        self._config = config
        self._directory = RunDirectory(directory)
        self._resume, self._has_begun, self._trusted, self._given = resume, has_begun, trusted, given
        self._worker_classes = worker_classes or WorkerClasses()
        self._run: Run | None = None
        self._waits_for: str | None = None
        self._stop = threading.Event()

    def progress(self) -> RunProgress | str | None:
        """The progress table; before there is one, what the run waits for, if it does."""
        return self._run.progress(HERE.monotonic()) if self._run is not None else self._waits_for

    def stop(self) -> None:
        """Snapshot every stage where it stands, and let `run` return."""
        self._stop.set()

    def run(self) -> RunOutcome:
        """Train to the end, or until told to stop.

        Raises:
            UserError: configuration, data or run directory cannot be used; nothing was started.
            TrainingError: a stage could not be trained to its end; names it and the cause.
            HandedOverError: its node is about to leave; another coordinator is to go on.
        """
        torch.set_num_threads(1)  # the cores are the workers'
        check_networks(self._config, self._directory, self._trusted)
        with phase("data and networks"):
            setup, data = prepare(self._config, self._given)
        host = callback_host(setup.plan, unpickled(self._callbacks))
        served = exporting(str(self._directory), setup.plan, ray.util.get_node_ip_address(), self._stop)
        with self._directory.only_writer(self._wait_for), served as exporter:
            self._waits_for = "looking at what the cluster has, and what it can add"
            resume = goes_on(self._directory, resume=self._resume, has_begun=self._has_begun)
            resources = cluster_resources(self._config.engine.device)
            placement = placement_of(setup.plan, self._directory, resources, resume=resume)
            # The checks come before: a new run that is refused leaves no directory behind.
            enter(setup.plan, self._directory, resume=resume)
            memory_bytes = _memory_asked(setup.plan, placement, resources)
            end = self._train(setup.on(placement.on_gpu), data, placement, memory_bytes, exporter, host)
            if end.handed_over:  # at once: neither the lock nor the node waits for a last scrape
                raise HandedOverError(f"step {end.step} is saved")
        if end.error is not None:
            raise TrainingError(end.error)
        return RunOutcome(self._directory.link, end.step, end.evaluation, end.stopped)

    def _wait_for(self, what: str) -> None:
        self._waits_for = what

    def _train(
        self,
        setup: RunSetup,
        data: DataSet,
        placement: Placement,
        memory_bytes: int,
        exporter: MetricsExporter | None,
        host: CallbackHost,
    ) -> End:
        listeners = [*([exporter.record] if exporter else []), host.record]
        taken = take_over(setup, self._directory, *listeners)
        host.start(run_info(setup.plan, self._directory, data.held_out, _on_cpu(setup.plan)))
        self._run = run = Run(setup.plan, placement, taken.start, HERE.monotonic())
        drawing = who_draws(setup.plan, placement)
        served = f"; metrics at {exporter.address}" if exporter else ""
        facts = asdict(worker_facts(torch.device("cpu")))
        taken.log.add(WorkerReady(worker="coordinator", incarnation=1, **facts))
        for each in (*self._phases, *noted_phases("coordinator")):
            taken.log.add(each)
        run.journal.tell(*taken.warnings, *data.notes, f"{placement.reason}; {drawing.reason}{served}")
        draw = setup.batch_stream(data.train.labels).round if drawing.by_coordinator else None
        actors = RayActors(
            setup.on_its_device(), data, self._directory.root, placement, memory_bytes, draw, self._worker_classes
        )
        if exporter is not None:
            exporter.show_live(lambda: _live(run, actors))
        storage = StorageThread(taken.checkpoints, taken.log, self._directory, task_done=actors.wake)
        runner = CommandRunner(actors, storage, see_cluster)
        collect_seldom()
        try:
            with self._closing(host, taken.log, run):
                return follow_core(run, runner, HERE, self._stop.is_set, partial(_each_turn, host, exporter))
        finally:
            runner.close(setup.config.engine.grace_seconds)

    @contextmanager
    def _closing(self, host: CallbackHost, log: RunLog, run: Run) -> Iterator[None]:
        """Let the callbacks take in what is left after the `with`."""
        try:
            yield
        finally:
            for line in host.close(STOP_SECONDS if self._stop.is_set() else END_SECONDS):
                run.journal.news.tell(line)
                log.add(News(text=line))


def _on_cpu(plan: RunPlan) -> Callable[[Mapping[Stage, Snapshot]], NoPropNetwork]:
    return lambda snapshots: assemble_network(plan, snapshots, torch.device("cpu"))


def _memory_asked(plan: RunPlan, placement: Placement, resources: Resources) -> int:
    """What each block worker asks for: never more than a machine has, for such a worker would not be started at all."""
    if not resources.node_memory_bytes:
        return 0
    most = max((len(place.blocks) for place in placement.workers), default=0) or 1
    prints = block_footprints(plan, as_trained=False).values()
    largest = sorted(prints, key=lambda each: each.state + each.activations)[-most:]
    wanted = worker_bytes(largest, placement.lanes, on_gpu=placement.on_gpu)
    return wanted if resources.grows else min(wanted, int(resources.node_memory_bytes))


def _each_turn(host: CallbackHost, exporter: MetricsExporter | None, run: Run) -> None:
    """What the loop does beside the core's commands."""
    run.journal.tell(*host.news())
    if exporter is not None:
        exporter.loop_turned()


def _live(run: Run, actors: RayActors) -> Sequence[LiveStage]:
    """The present state of all stages, for a scrape; called from another thread."""
    rows = [(each, each.row()) for each in run.stages.values()]
    return [
        LiveStage(row.stage, row.state, row.step, each.queue.rounds_in_flight, actors.sent_bytes[row.stage])
        for each, row in rows
    ]
