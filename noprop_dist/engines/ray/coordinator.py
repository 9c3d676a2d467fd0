"""The coordinator actor: prepares a run, makes its workers, and sees it through to its end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import ray
import torch

from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.engines.core.drawing import who_draws
from noprop_dist.engines.core.placement import Placement, place_run
from noprop_dist.engines.core.round_queue import StageQueue
from noprop_dist.engines.ray.actors import CLASSIFIER_WORKER, EVALUATOR, ActorMaker, block_worker_name
from noprop_dist.engines.ray.cluster import cluster_resources
from noprop_dist.engines.ray.dispatcher import Dispatcher
from noprop_dist.engines.ray.fleet import Fleet
from noprop_dist.engines.ray.recruiter import Recruiter
from noprop_dist.engines.ray.snapshot_keeper import SnapshotKeeper
from noprop_dist.engines.ray.stage import Stage
from noprop_dist.engines.ray.training_loop import TrainingLoop
from noprop_dist.engines.ray.workers import worker_facts
from noprop_dist.metrics.exporter import MetricsExporter
from noprop_dist.metrics.families import block_label
from noprop_dist.metrics.live import LiveStage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.preparation import prepare
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup


class Coordinator:
    """Runs one training run; `progress` and `stop` may be called meanwhile from other threads.

    Args:
        config: of the run.
        directory: of the run, on storage that this node reaches.
        resume: continue the run that lies there, if one does.
        actors: makes the maker of the run's actors.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: str,
        resume: bool = False,
        actors: Callable[[RunSetup, DataSet, str, Placement], ActorMaker] = ActorMaker,
    ) -> None:
        self._config = config
        self._directory = RunDirectory(directory)
        self._resume = resume
        self._actors = actors
        self._log: RunLog | None = None
        self._stop = threading.Event()

    def progress(self) -> RunProgress | None:
        """The progress table; None until the data is loaded."""
        return self._log.board.picture() if self._log is not None else None

    def stop(self) -> None:
        """Snapshot every stage where it stands, and let `run` return."""
        self._stop.set()

    def run(self) -> RunOutcome:
        """Train to the end, or until told to stop.

        Raises:
            UserError: configuration, data or run directory cannot be used; nothing was started.
            TrainingError: a stage could not be trained to its end; names it and the cause.
        """
        setup, data = prepare(self._config)
        with self._directory.only_writer():
            if not (self._resume and self._directory.holds_run):
                self._directory.create(setup.config, setup.facts)
            with self._exporting(setup) as exporter:
                return self._train(setup, data, exporter)

    def _train(self, setup: RunSetup, data: DataSet, exporter: MetricsExporter | None) -> RunOutcome:
        engine, placement = setup.config.engine, place_run(setup.config, cluster_resources())
        setup = replace(setup, on_gpu=placement.on_gpu)
        writer = setup.checkpoint_writer(self._directory)
        snapshots, warnings = writer.take_over()
        done = {stage: snapshots[stage].step if stage in snapshots else 0 for stage in setup.stages}
        self._log = log = RunLog(setup, self._directory, done, exporter.record if exporter else lambda _: None)
        fleet, stages = Fleet(engine.start_timeout_seconds), _stages(setup, snapshots)
        keeper = SnapshotKeeper(writer, log, snapshots, setup.config.checkpoint.storage_timeout_seconds)
        try:
            log.news(*warnings)
            log.event("worker", worker="coordinator", incarnation=1, **asdict(worker_facts(torch.device("cpu"))))
            drawing = who_draws(setup, placement)
            served = f"; metrics at {exporter.address}" if exporter else ""
            log.news(f"{placement.reason}; {drawing.reason}{served}")
            recruiter = self._employ(setup, data, fleet, stages, placement)
            stream, exchange = setup.batch_stream(data.train.labels), setup.embedding_exchange(snapshots)
            dispatcher = Dispatcher(setup, stages, fleet, keeper, stream, exchange, drawing.by_coordinator)
            turned = exporter.turned if exporter else lambda: None
            loop = TrainingLoop(setup, stages, fleet, recruiter, keeper, dispatcher, log, turned)
            if exporter is not None:
                exporter.watch(lambda: _live(stages, log, dispatcher))
            for step in writer.complete_steps:
                if setup.evaluates and not log.evaluated(step):
                    loop.evaluations.add(step)
            evaluation = loop.run(self._stop)
            stopped = self._stop.is_set() and any(not stage.queue.finished for stage in stages.values())
            return RunOutcome(str(self._directory), loop.outcome_step(), evaluation, stopped)
        finally:
            fleet.close()
            keeper.close(engine.grace_seconds)

    def _employ(
        self,
        setup: RunSetup,
        data: DataSet,
        fleet: Fleet,
        stages: dict[int, Stage],
        placement: Placement,
    ) -> Recruiter:
        """Name the workers of the run, and the home of every stage."""
        maker = self._actors(setup, data, str(self._directory), placement)
        recruiter = Recruiter(setup.config, fleet, maker, placement)
        for number, place_ in enumerate(placement.workers, start=1):
            for block in place_.blocks:
                stages[block].home = block_worker_name(number)
        fleet.add(CLASSIFIER_WORKER, maker.classifier_worker)
        if setup.evaluates:
            fleet.add(EVALUATOR, maker.evaluator)
        return recruiter

    @contextmanager
    def _exporting(self, setup: RunSetup) -> Iterator[MetricsExporter | None]:
        """The metrics endpoint for the length of a `with`, and a little longer where that is asked for."""
        settings = setup.config.metrics
        if settings.port is None:
            yield None
            return
        name = str(self._directory).rpartition("/")[2]
        exporter = MetricsExporter(name, setup, settings, ray.util.get_node_ip_address())
        try:
            yield exporter
            self._stop.wait(settings.linger_seconds)
        finally:
            exporter.close()


def _live(stages: dict[int, Stage], log: RunLog, dispatcher: Dispatcher) -> list[LiveStage]:
    """What a scrape shows of this moment; another thread asks."""
    return [
        LiveStage(
            block_label(row.name),
            row.state,
            row.step,
            stage.queue.rounds_in_flight,
            dispatcher.sent_bytes[stage.number],
        )
        for row, stage in zip(log.board.picture().stages, stages.values(), strict=True)
    ]


def _stages(setup: RunSetup, snapshots: dict[int, Snapshot]) -> dict[int, Stage]:
    """All stages of a run, each at its newest snapshot."""
    engine, now = setup.config.engine, time.monotonic()
    stages = {}
    for number in setup.stages:
        done = snapshots[number].step if number in snapshots else 0
        steps = setup.sync_steps if number == setup.embedding_stage else setup.round_steps
        queue = StageQueue(setup.snapshot_steps, steps, engine.prefetch, done)
        stages[number] = Stage(
            number, setup.stage_name(number), queue, CLASSIFIER_WORKER, waiting_since=now, reported=done
        )
    return stages
