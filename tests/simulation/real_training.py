"""Simulated runs in which the engine's own workers train in this process, and write into a real folder."""

import os
from contextlib import suppress

from scripted_runs import ScriptedRun

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR
from noprop_dist.engines.ray.workers import BlockWorker, ClassifierWorker, Evaluator
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store
from noprop_dist.storage.system import THIS_SYSTEM
from noprop_dist.training.setup import prepare


class MortalSystem:
    """The system calls of one process, which makes none once it is dead; the kernel closes its files then."""

    def __init__(self, process):
        self._process, self._open = process, set()
        process.at_death.append(self._close_all)

    def __getattr__(self, name):
        call = getattr(THIS_SYSTEM, name)

        def called(*arguments, **more):
            self._process.point()
            return call(*arguments, **more)

        return called

    def open(self, *arguments, **more):
        self._process.point()
        descriptor = THIS_SYSTEM.open(*arguments, **more)
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor):
        self._process.point()
        self._open.discard(descriptor)
        THIS_SYSTEM.close(descriptor)

    def _close_all(self):
        for descriptor in self._open:
            with suppress(OSError):
                os.close(descriptor)


class RealFolder:
    """Takes the place of `SimulatedStore`.

    Args:
        folder: of the run.
    """

    away = False

    def __init__(self, folder):
        self._folder = str(folder)

    def of(self, process, machine):
        return Store(self._folder, LocalFiles(self._folder, MortalSystem(process)), machine)

    def undisturbed(self):
        return Store(self._folder)

    @property
    def holds_run(self):
        return RunDirectory(self._folder).holds_run


class RealWork:
    """Calls a worker as `engines.ray.actors` does.

    Args:
        worker: a block worker, classifier worker or evaluator.
        draw: draws the batches of a round; None where the workers do.
    """

    def __init__(self, worker, draw):
        self._worker, self._draw = worker, draw

    def train(self, key, _):
        return self._worker.train(key if self._draw is None else self._draw(key))

    def evaluate(self, _, step):
        return self._worker.evaluate(step)

    def answer(self, request):
        return getattr(self._worker, c.METHODS[type(request)])(*c.arguments_of(request))


class RealRun(ScriptedRun):
    """A run in a folder; one that lies there already is continued.

    Args:
        config: of the run.
        folder: of the run.
        cores: of the cluster.
    """

    def __init__(self, config, folder, cores=2):
        super().__init__(cores=cores)
        self._folder = folder
        self._setup, self._data = prepare(config)
        self.plan, self.storage = self._setup.plan, RealFolder(folder)

    def setup(self, plan):
        return self._setup

    def check_snapshot(self, snapshot, what):
        """Nothing: its bits are compared with those of the sequential engine."""

    def work(self, slot, plan):
        setup, train = self._setup, self._data.train
        if slot == EVALUATOR:
            return RealWork(Evaluator(setup, self._data.held_out, str(self._folder)), None)
        drawn_here = setup.config.engine.sampling != "worker"
        draw = setup.batch_stream(train.labels).round if drawn_here else None
        classifier = slot == CLASSIFIER_WORKER
        worker = ClassifierWorker(setup, train.labels) if classifier else BlockWorker(setup, train.inputs, train.labels)
        return RealWork(worker, draw)
