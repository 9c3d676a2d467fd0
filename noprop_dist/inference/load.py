"""Assembles the snapshots of all stages into a network that classifies: a trained run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from noprop_dist.config.sections.blocks import check_chain_steps
from noprop_dist.diffusion.embedding import onehot_embedding
from noprop_dist.errors import UserError
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.inference.score import best_step
from noprop_dist.models.check import check_apart
from noprop_dist.records import Evaluated
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import CLASSIFIER, EMBEDDING, Stage, block
from noprop_dist.storage.identity import other_sources
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot, load_weights, to_tensors


@dataclass(frozen=True)
class TrainedRun:
    """A run directory and the network of one of its checkpoints.

    Attributes:
        directory: of the run.
        plan: of the run.
        network: of that checkpoint, on the device that it computes on.
        step: of that checkpoint.
        warnings: of damaged checkpoints that were passed over, and of networks whose files have changed.
    """

    directory: RunDirectory
    plan: RunPlan
    network: NoPropNetwork
    step: int
    warnings: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256 of all that its answers depend on: the weights of all stages, and the run's identity."""
        weights = {entry.name: entry.sha256 for entry in self.directory.checkpoints.manifest(self.step).stages}
        text = json.dumps([weights, self.directory.identity()], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def load_snapshots(
    directory: RunDirectory, checkpoint: str | int = "last"
) -> tuple[dict[Stage, Snapshot], tuple[str, ...]]:
    """The weights of a checkpoint, and warnings of damaged ones that were passed over.

    Args:
        directory: of the run.
        checkpoint: `last` is the last undamaged one, `best` the one that is best by `checkpoint.score`, a number,
            perhaps as text, the one of that step.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    if checkpoint == "last":
        snapshots, warnings = directory.checkpoints.load_last_whole(weights_alone=True)
        return snapshots, tuple(f"{each}; the one before it is used" for each in warnings)
    steps = directory.checkpoints.steps()
    if not steps:
        raise UserError(f"{directory}: holds no complete checkpoint yet")
    named = {str(step): step for step in steps}
    step = best_step(directory) if checkpoint == "best" else named.get(str(checkpoint))
    if step is None:
        raise UserError(f"{directory}: has no checkpoint {checkpoint}; allowed are last, best, {', '.join(named)}")
    return directory.checkpoints.load_all(step, weights_alone=True), ()


def changed_networks(directory: RunDirectory, plan: RunPlan, step: int) -> list[str]:
    """A warning for each network of the user's own whose file has changed since a checkpoint. Imports them.

    Args:
        directory: of the run.
        plan: of the run.
        step: of the checkpoint.

    Raises:
        UserError: a network does not import.
    """
    told: list[str] = []
    for entry in directory.checkpoints.manifest(step).stages:
        told += other_sources(str(directory), entry.trained_with, plan.sources(entry.stage))
    return list(dict.fromkeys(told))


def classifier_of(
    run: TrainedRun, sampler: Sampler = "mean", passes: int = 1, seed: int | None = None
) -> NoPropClassifier:
    """The network of a run as one module.

    Args:
        run: that was trained.
        sampler: see `NoPropClassifier.of`.
        passes: likewise.
        seed: likewise.

    Raises:
        UserError: see `NoPropClassifier.of`.
    """
    return NoPropClassifier.of(run.network, _card(run), sampler, passes, seed)


def with_steps(run: TrainedRun, steps_per_block: int | None) -> TrainedRun:
    """The run with another number of steps that each block takes through its range; None leaves it as it is.

    Raises:
        UserError: its blocks have one noise level each, or the chain would be too long.
    """
    if steps_per_block is None:
        return run
    if steps_per_block > 1 and not run.plan.takes_level:
        raise UserError(
            f"steps_per_block={steps_per_block}: the blocks of {run.directory} have one noise level each, "
            "so each takes one step"
        )
    check_chain_steps("steps_per_block", steps_per_block, run.plan.config.blocks.count)
    run.plan.schedule.refined(steps_per_block)
    return replace(run, network=replace(run.network, steps_per_block=steps_per_block))


def _card(run: TrainedRun) -> dict[str, Any]:
    """What `save_pretrained` tells of a run, without any path."""
    config, facts = run.plan.config, run.plan.facts
    of_blocks = {"count", "network", "networks", *(("noise",) if run.plan.takes_level else ())}
    measured = [each for each in run.directory.metrics() if isinstance(each, Evaluated) and each.step == run.step]
    if run.network.steps_per_block != config.evaluation.steps_per_block:
        measured = []  # they are of another chain
    return {
        "blocks": config.blocks.model_dump(mode="json", include=of_blocks),
        "classifier": config.classifier.model_dump(mode="json"),
        "trained": {
            "data": facts.name,
            "samples": facts.samples["train"],
            "method": config.method,
            "embedding": config.embedding.kind,
            "schedule": config.schedule.kind,
            "step": run.step,
            "accuracy": {f"{each.split} ({each.sampler})": each.accuracy for each in measured},
        },
    }


def assemble_network(plan: RunPlan, snapshots: Mapping[Stage, Snapshot], device: torch.device) -> NoPropNetwork:
    """Put the blocks, the classifier and W_embed of one checkpoint together.

    Args:
        plan: of the run.
        snapshots: of every stage, at the same step.
        device: that the network computes on.

    Raises:
        UserError: snapshots of some blocks are missing (the run trained `blocks.only` some).
    """
    every_block = range(1, plan.config.blocks.count + 1)
    missing = [str(t) for t in every_block if block(t) not in snapshots]
    if missing:
        raise UserError(
            f"this run has no weights of block(s) {', '.join(missing)} (blocks.only), and a chain needs them all"
        )

    def trained(module: nn.Module, stage: Stage) -> nn.Module:
        load_weights(module, snapshots[stage])
        return plan.on_device(module.eval(), device)

    blocks = {block(t): plan.block_network(t, drawn=False) for t in every_block}
    check_apart((stage.name, network) for stage, network in blocks.items())
    return NoPropNetwork(
        blocks=tuple(trained(network, stage) for stage, network in blocks.items()),
        classifier=trained(plan.classifier(), CLASSIFIER),
        embedding=_embedding(plan, snapshots).to(device),
        schedule=plan.schedule,
        facts=plan.facts,
        seed=plan.config.seed,
        takes_level=plan.takes_level,
        steps_per_block=plan.config.evaluation.steps_per_block if plan.takes_level else 1,
    )


def _embedding(plan: RunPlan, snapshots: Mapping[Stage, Snapshot]) -> Tensor:
    """W_embed, (m, d)."""
    if plan.learns_embedding:
        return to_tensors(snapshots[EMBEDDING].weights)["weight"]
    return onehot_embedding(plan.facts.classes)
