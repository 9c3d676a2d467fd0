"""Runs in which the engine's own workers train in this process, and its own storage writes; only time is made up."""

import time

from world import World

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR, Slot
from noprop_dist.engines.core.events import StorageDone
from noprop_dist.engines.core.run import StartingPoint
from noprop_dist.engines.ray.workers import BlockWorker, ClassifierWorker, Evaluator
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.inference.score import scores_of
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.fine_tuning import begin
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import prepare


class RealActor:
    """Calls a worker as `engines.ray.actors` does.

    Args:
        worker: a block worker, classifier worker or evaluator.
        draw: draws the batches of a round; None where the workers do.
    """

    def __init__(self, worker, draw):
        self.worker, self.draw = worker, draw

    def answer(self, request):
        method = getattr(self.worker, c.METHODS[type(request)])
        if isinstance(request, c.Train) and self.draw is not None:
            return method(self.draw(request.round))
        return method(*c.arguments_of(request))


class RealWorld(World):
    """A run in a run directory; one that lies there already is continued.

    Args:
        config: of the run.
        folder: of the run.
        cores: of the cluster.
    """

    def __init__(self, config, folder, cores=2):
        self.setup, self.data = prepare(config)
        self.directory = RunDirectory(str(folder))
        if not self.directory.holds_run:
            begin(self.setup.plan, self.directory)
        checkpoints = self.setup.checkpoint_writer(self.directory)
        snapshots, _ = checkpoints.take_over()
        done = {stage: snapshots[stage].step if stage in snapshots else 0 for stage in self.setup.plan.stages}
        self.run_log = RunLog(self.directory, done)
        self.thread = StorageThread(checkpoints, self.run_log, self.directory)
        unmeasured = [step for step in checkpoints.complete_steps if not self._measured(step)]
        scores = scores_of(self.setup.plan, self.run_log.figures)
        stop_step = None if scores is None else scores.stop_step(checkpoints.complete_steps)
        start = StartingPoint(snapshots, unmeasured, self.setup.embedding_exchange(snapshots), scores, stop_step)
        super().__init__(self.setup.plan, self._make_actor, self._write, start, cores)

    def _measured(self, step):
        return self.run_log.evaluated(step, final=step == self.setup.plan.total_steps)

    def log(self, record):
        super().log(record)
        self.run_log.add(record)

    def _make_actor(self, slot: Slot, _):
        setup, train = self.setup, self.data.train
        if slot == EVALUATOR:
            return RealActor(Evaluator(setup, self.data.held_out, str(self.directory)), None)
        drawn_here = setup.config.engine.sampling != "worker"
        draw = setup.batch_stream(train.labels).round if drawn_here else None
        classifier = slot == CLASSIFIER_WORKER
        worker = ClassifierWorker(setup, train.labels) if classifier else BlockWorker(setup, train.inputs, train.labels)
        return RealActor(worker, draw)

    def _write(self, task):
        self.thread.begin(task)
        while not (events := self.thread.events()):
            time.sleep(0.0005)
        (done,) = events
        assert isinstance(done, StorageDone)
        return done.checkpoint_complete
