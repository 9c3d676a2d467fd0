"""Each process of a Ray Train group: trains the back-propagation baseline, data-parallel."""

import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed

from noprop_dist.baseline.network import assemble_end_to_end
from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.data.dataset import HeldOut
from noprop_dist.engines.core.round_queue import RoundQueue
from noprop_dist.inference.checkpoint_evaluation import evaluate_checkpoint
from noprop_dist.inference.score import scores_of
from noprop_dist.records import CheckpointCompleted, News, StageFailed
from noprop_dist.stages import NETWORK
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import OPTIMIZER, WEIGHTS, Snapshot, from_files, must_fit, to_files
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.beside import Beside, at_work
from noprop_dist.training.finite import NonFiniteError
from noprop_dist.training.messages import RoundReport
from noprop_dist.training.replicas import ALONE, ReplicaGroup
from noprop_dist.training.rounds import train_round
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup


@dataclass(frozen=True)
class EndToEndJob:
    """What every process gets.

    Attributes:
        setup: of the run.
        directory: of the run, on storage that the first process reaches.
        train: reference to the training split.
        held_out: reference to the data for evaluation.
        snapshots: reference to the network's newest snapshot by its stage; to none at the beginning.
    """

    setup: RunSetup
    directory: str
    train: Any
    held_out: Any
    snapshots: Any


def train_end_to_end(config: dict[str, EndToEndJob]) -> None:
    """Train to the end; every process of the group runs this.

    It goes on from Ray Train's last checkpoint where a group of this job was lost, else from the run's newest snapshot.

    Args:
        config: the job under `job`; Ray Train passes on only a dict.
    """
    job, context = config["job"], ray.train.get_context()
    setup, size = job.setup, context.get_world_size()
    group = ReplicaGroup(context.get_world_rank(), size) if size > 1 else ALONE
    split = ray.get(job.train)
    device = setup.start_computing()
    setup = setup.on(device.type == "cuda")
    samples = setup.training_samples(split.inputs, device)
    trainer = end_to_end_trainer(setup, samples, device, group, ray.train.torch.prepare_model)
    last = ray.train.get_checkpoint()
    snapshot = _read(last) if last is not None else ray.get(job.snapshots).get(NETWORK)
    if snapshot is not None:
        with must_fit(snapshot):
            trainer.restore(snapshot)
    done = trainer.snapshot().step
    records = _Records(job, device, done) if group.rank == 0 else None
    stream = setup.batch_stream(split.labels)
    beside = Beside(NETWORK.name)
    queue = RoundQueue(setup.plan.snapshot_steps, setup.plan.round_steps, 1, done)
    while (work := queue.next_round(unsaved_snapshots=0)) is not None:
        try:
            with at_work(beside):
                report = train_round(trainer, group.share(stream.round(RoundKey(NETWORK, *work))))
            snapshot = trainer.snapshot() if queue.at_snapshot else None
        except NonFiniteError as error:  # gradients are averaged, so all processes come here at the same step
            if records is not None:
                records.tell(beside.take().lines)
                records.failed(error)
            return  # after an exception Ray Train would try the same again
        assert report is not None
        if records is not None:
            records.tell(beside.take().lines)
            records.add(report, snapshot)
        if snapshot is not None:
            _report(report, snapshot if records is not None else None, setup.config.blocks.count)
        queue.round_done(report.steps_done)


class _Records:
    """Written by the first process for all: records, checkpoints of the run directory, and figures.

    Args:
        job: of the group.
        device: that evaluations compute on.
        done: steps that were done before.
    """

    def __init__(self, job: EndToEndJob, device: torch.device, done: int) -> None:
        self._setup, self._device = job.setup, device
        self._directory = RunDirectory(job.directory)
        self._held_out: HeldOut = ray.get(job.held_out)
        self._log = RunLog(self._directory, {NETWORK: done})
        self._writer = job.setup.checkpoint_writer(self._directory)
        size = ray.train.get_context().get_world_size()
        ready = f"{size} process(es) train the network, the first on {socket.gethostname()}"
        self.tell([*self._writer.take_over()[1], *self._log.warnings, ready])
        self._log.flush()  # the coordinator waits for it

    def tell(self, lines: Sequence[str]) -> None:
        """Write down lines for people."""
        for line in lines:
            self._log.add(News(text=line))

    def add(self, report: RoundReport, snapshot: Snapshot | None) -> None:
        """Write down a round and the snapshot after it, if there is one."""
        self._log.add(report.record())
        if snapshot is not None and self._writer.add(snapshot):
            if not self._log.completed(snapshot.step):
                self._log.add(CheckpointCompleted(step=snapshot.step))
            plan, final = self._setup.plan, snapshot.step == self._setup.plan.total_steps
            if plan.evaluates and not self._log.evaluated(snapshot.step, final=final):
                network = assemble_end_to_end(plan, snapshot, self._device)
                figures = evaluate_checkpoint(network, plan, self._held_out, snapshot.step)
                for record in figures.records():
                    self._log.add(record)
            plan = self._setup.plan
            scores = scores_of(plan, self._log.figures)
            best = None if scores is None else scores.best(plan.config.checkpoint.num_to_keep)
            self._writer.prune(snapshot.step, best)
        self._log.flush()

    def failed(self, error: NonFiniteError) -> None:
        """Write down that the network cannot be trained any further."""
        self._log.add(StageFailed(stage=NETWORK, step=error.step, cause=str(error)))
        self._log.flush()


def _report(report: RoundReport, snapshot: Snapshot | None, blocks: int) -> None:
    """Report to Ray Train, with a checkpoint from the first process; waits for the others."""
    metrics = {"step": report.steps_done, "loss": report.loss}
    if snapshot is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in to_files(snapshot, blocks).items():
            (Path(folder) / name).write_bytes(content)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _read(checkpoint: ray.train.Checkpoint) -> Snapshot:
    name = NETWORK.name
    with checkpoint.as_directory() as folder:
        return from_files(name, *((Path(folder) / (name + suffix)).read_bytes() for suffix in (WEIGHTS, OPTIMIZER)))
