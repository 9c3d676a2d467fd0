"""Runs in which the engine's own workers train in this process, and its own storage writes; only time is made up."""

import time

from world import World

from noprop_dist.engines.coordination import enter, take_over
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR, Slot
from noprop_dist.engines.core.events import StorageDone
from noprop_dist.engines.ray.workers import BlockWorker, ClassifierWorker, Evaluator
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.storage.run_directory import RunDirectory
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
        enter(self.setup.plan, self.directory, resume=True)
        taken = take_over(self.setup, self.directory)
        self.thread = StorageThread(taken.checkpoints, taken.log, self.directory)
        super().__init__(self.setup.plan, self._make_actor, self._write, taken.start, cores)

    def log(self, record):
        super().log(record)
        self.thread.log(record)

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
