"""Runs whose stages train by hashing: a lost, doubled or reordered step changes the final fingerprint.

A stage's weights are a hash chained over its steps and, where W_embed is learned, over the version of each step. The
gradient of a step follows from the hash after it, and the next version from the gradients of all stages, through the
engine's own `EmbeddingExchange`.
"""

import hashlib

import numpy as np
from world import STEP_SECONDS, World

from noprop_dist.config.layers import load_config
from noprop_dist.data.dataset import DataFacts
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.run import StartingPoint
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.evaluation import Evaluation
from noprop_dist.inference.score import scores_of
from noprop_dist.records import EmbeddingUpdated, Evaluated, RoundDone
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import EMBEDDING
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingExchange, EmbeddingVersion
from noprop_dist.training.messages import EmbeddingReport, RoundReport, StageFailure, WorkerFacts

FIRST_VERSION = np.zeros(4, np.float32)
LEARNED = "embedding={kind: learned, sync_steps: 4}"


def small_plan(*settings):
    """Three blocks, 48 steps of 8 batches an epoch; no data set is loaded."""
    facts = DataFacts("made up", (1, 8, 8), tuple("0123456789"), (0.0,), (1.0,),
                      {"train": 1024, "validation": 100, "test": 100}, "")  # fmt: skip
    small = ["blocks.count=3", "training.max_steps=48", "checkpoint.every_steps=16", "engine.round_steps=4"]
    return RunPlan(load_config("digits", None, [*small, "checkpoint.snapshot_every_steps=8", *settings]), facts)


def numbers(digest):
    """The beginning of a hash as whole numbers, whose sums are exact in float32."""
    return np.frombuffer(digest[:4], np.uint8).astype(np.float32)


class HashedStage:
    """The state of one stage.

    Args:
        snapshot: that it goes on from; None is step 0.
    """

    def __init__(self, stage, snapshot):
        self.stage = stage
        self.done, self.chain, self.version, self.gathered = 0, b"", 0, np.zeros(4, np.float32)
        if snapshot is not None:
            self.done, self.chain = snapshot.step, snapshot.weights["chain"].tobytes()
            self.version, self.gathered = int(snapshot.optimizer["version"]), snapshot.optimizer["gathered"].copy()

    def train(self, key):
        if key.first_step != self.done:
            return StageFailure(self.stage, key.first_step, f"RuntimeError: has done {self.done} steps", "")
        if key.embedding is not None and key.embedding.number != self.version:
            self.version, self.gathered = key.embedding.number, np.zeros(4, np.float32)
        against = b"" if key.embedding is None else key.embedding.weights.tobytes()
        for step in range(key.first_step, key.first_step + key.steps):
            self.chain = hashlib.sha256(self.chain + f"{self.stage.name}|{step}|".encode() + against).digest()
            self.gathered = self.gathered + numbers(self.chain)
        self.done += key.steps
        gradient = None if key.embedding is None else self.gathered
        return RoundReport(self.stage, key.first_step, key.steps, 1.0, 1.0, 1.0, key.steps * STEP_SECONDS,
                           embedding_gradient=gradient)  # fmt: skip

    def update(self, update):
        """The next version of W_embed."""
        if update.first_step != self.done:
            return StageFailure(self.stage, update.first_step, f"RuntimeError: has seen {self.done} steps", "")
        self.chain = hashlib.sha256(self.chain + update.gradient.tobytes()).digest()
        self.done += update.steps
        report = EmbeddingReport(update.first_step, update.steps, 1.0, 1.0, 1.0, 0.001)
        return EmbeddingVersion(update.number + 1, numbers(self.chain)), report

    def snapshot(self):
        kept = {"version": np.array(self.version), "gathered": self.gathered}
        return Snapshot(self.stage, self.done, {"chain": np.frombuffer(self.chain, np.uint8)}, kept, "{}")


class HashingActor:
    """A block worker, classifier worker or evaluator.

    Args:
        node: that it is on.
        total_steps: of the run.
        raise_at: steps at which stages raise.
        accuracy: of the checkpoint of a step.
    """

    def __init__(self, node, total_steps, raise_at, accuracy):
        self.node, self.total_steps, self.raise_at, self.accuracy = node, total_steps, raise_at, accuracy
        self.stages = {}

    def answer(self, request):
        match request:
            case c.DescribeYourself():
                return WorkerFacts("host", self.node, 1, "cpu")
            case c.Hold(stage, snapshot):
                self.stages[stage] = HashedStage(stage, snapshot)
            case c.Release(stage):
                self.stages.pop(stage, None)
            case c.Train(key):
                return self._train(key)
            case c.UpdateEmbedding(update):
                return self.stages[EMBEDDING].update(update)
            case c.TakeSnapshot(stage):
                return self.stages[stage].snapshot() if stage in self.stages else None
            case c.Evaluate(step):
                result = Evaluation(self.accuracy(step), 0.5, "mean", 1, 10)
                return CheckpointEvaluation(step, step == self.total_steps, (("validation", result),), None)
        return None

    def _train(self, key):
        if key.stage not in self.stages:
            return None
        if self.raise_at.get(key.stage, self.total_steps) < key.first_step + key.steps:
            del self.stages[key.stage]
            return StageFailure(key.stage, self.raise_at[key.stage], "OverflowError: the soup boiled over", "Trace")
        return self.stages[key.stage].train(key)


class HashingStore:
    """Keeps every snapshot by (step, stage).

    Args:
        plan: of the run.
    """

    def __init__(self, plan):
        self.plan = plan
        self.saved = {}

    def __call__(self, task):
        if isinstance(task, c.EndAt):
            self.saved = {step: stages for step, stages in self.saved.items() if step <= task.step}
        if not isinstance(task, c.WriteSnapshot):
            return False
        snapshot = task.snapshot
        if self.plan.learns_embedding and snapshot.step not in self.plan.snapshot_steps:
            return False  # stages go on together, or not at all
        saved = self.saved.setdefault(snapshot.step, {})
        saved[snapshot.stage] = snapshot
        return snapshot.step in self.plan.checkpoint_steps and len(saved) == len(self.plan.stages)

    def complete_steps(self):
        return [step for step in self.plan.checkpoint_steps if len(self.saved.get(step, ())) == len(self.plan.stages)]

    def newest(self):
        """What a run that is resumed here begins with."""
        whole = [step for step, saved in self.saved.items() if len(saved) == len(self.plan.stages)]
        if self.plan.learns_embedding:
            return self.saved[max(whole)] if whole else {}
        return {stage: saved[stage] for _, saved in sorted(self.saved.items()) for stage in saved}

    def fingerprints(self):
        """SHA-256 of every stage's weights at the end of the run."""
        return {stage: snapshot.fingerprint() for stage, snapshot in self.saved[self.plan.total_steps].items()}


def sequentially(plan):
    """The fingerprints that follow from the algorithm, without any engine."""
    stages = {stage: HashedStage(stage, None) for stage in plan.stages}
    exchange = exchange_from(plan, {}) if plan.learns_embedding else None
    for first in range(0, plan.total_steps, plan.sync_steps):
        steps = min(plan.sync_steps, plan.total_steps - first)
        version = None if exchange is None else exchange.at(first)
        for stage in plan.stages:
            if stage != EMBEDDING:
                report = stages[stage].train(RoundKey(stage, first, steps, version))
                if exchange is not None:
                    exchange.gather(stage, report.steps_done, report.embedding_gradient)
        if exchange is not None:
            exchange.publish(stages[EMBEDDING].update(exchange.update_at(first))[0])
    return {stage: state.snapshot().fingerprint() for stage, state in stages.items()}


def exchange_from(plan, snapshots):
    owner = snapshots.get(EMBEDDING)
    weights = FIRST_VERSION if owner is None else numbers(owner.weights["chain"].tobytes())
    first = 0 if owner is None else owner.step
    return EmbeddingExchange(weights, first, plan.sync_steps, plan.total_steps, plan.config.blocks.count)


class HashingWorld(World):
    """A run of a plan.

    Args:
        plan: of the run.
        cores: of the cluster.
        before: a run whose process has ended; this one goes on from what it has left.
        raise_at: steps at which stages raise.
        accuracy: of the checkpoint of a step.
    """

    def __init__(self, plan, cores=2, before=None, raise_at=None, accuracy=lambda step: 0.5):
        self.plan, self.saved = plan, HashingStore(plan) if before is None else before.saved
        snapshots = self.saved.newest()
        exchange = exchange_from(plan, snapshots) if plan.learns_embedding else None
        records = [] if before is None else before.records[: before.records_flushed]
        scores, whole = scores_of(plan, records), self.saved.complete_steps()
        measured = {record.step for record in records if isinstance(record, Evaluated)}
        start = StartingPoint(
            snapshots,
            [step for step in whole if step not in measured] if before is not None and plan.evaluates else (),
            exchange,
            scores,
            None if scores is None else scores.stop_step(whole),
        )

        def make_actor(_, node):
            return HashingActor(node, plan.total_steps, raise_at or {}, accuracy)

        super().__init__(plan, make_actor, self.saved, start, cores)
        if before is not None:
            self.records = [each for each in before.records[: before.records_flushed] if not self._done_again(each)]
            self.records_flushed = len(self.records)

    def _done_again(self, record):
        """As `RunDirectory.forget_rounds_after` has it."""
        match record:
            case RoundDone(stage=stage, step=step):
                return step > self.run.stages[stage].steps_written
            case EmbeddingUpdated(step=step):
                return step > self.run.stages[EMBEDDING].steps_written
        return False

    def fingerprints(self):
        return self.saved.fingerprints()
