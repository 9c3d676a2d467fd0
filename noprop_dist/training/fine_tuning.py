"""Begins a run with the weights of another one (`training.init_from`).

The weights are written into the new run's directory as snapshots of step 0, from which every stage goes on as from any
other snapshot. So a lost worker and a `resume` need nothing of the source.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from noprop_dist.errors import UserError
from noprop_dist.machine import HERE, Machine
from noprop_dist.records import News
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.run_directory import RunDirectory, StartingWeights
from noprop_dist.storage.snapshot import WEIGHTS_ALONE, Arrays, Snapshot, first_difference
from noprop_dist.storage.trust import remember
from noprop_dist.training.embedding import EmbeddingTable


@dataclass(frozen=True)
class Source:
    """What a run begins with.

    Attributes:
        start: where the weights are from, and the fingerprints of all stages there.
        weights: of the stages that the new run trains.
        warnings: of damaged checkpoints after the one that is taken.
    """

    start: StartingWeights
    weights: Mapping[Stage, Arrays]
    warnings: tuple[str, ...]


def begin(plan: RunPlan, directory: RunDirectory, machine: Machine = HERE) -> None:
    """Begin a run in its directory; where `training.init_from` names one, with the weights of another run.

    Args:
        plan: of the run.
        directory: unused; this process is its only writer.
        machine: its clock.

    Raises:
        UserError: the directory or the source cannot be used; nothing was written.
        OSError: the source cannot be read, or the weights cannot be written; a `resume` writes them.
    """
    source = read_source(plan)
    remember(plan.config)  # a resume needs it; on a cluster this node's user may be another one than the driver's
    directory.create(plan.config, plan.facts, None if source is None else source.start)
    if source is not None:
        _write(plan, directory, source, machine)


def begin_again(plan: RunPlan, directory: RunDirectory, machine: Machine = HERE) -> None:
    """Write the weights that a run began with once more, if it was interrupted before every stage had a snapshot.

    Raises:
        UserError: the source cannot be used any more, or has other weights than it had.
    """
    saved = directory.checkpoints.saved_steps()
    if all(stage.file(plan.config.blocks.count) in saved for stage in plan.stages):
        return
    source, began = read_source(plan), directory.start()
    if source is None:
        return
    if began is None or source.start.sha256 != began.sha256:
        raise UserError(
            f"training.init_from={source.start.run}: its weights are others than those that {directory} began with, "
            "and not every stage has a snapshot of its own yet; begin a new run"
        )
    _write(plan, directory, source, machine)


def read_source(plan: RunPlan) -> Source | None:
    """The weights that `training.init_from` names; None where it names none.

    Raises:
        UserError: there is no whole checkpoint, or it does not fit the run.
    """
    root = plan.config.training.init_from
    if root is None:
        return None
    run = RunDirectory(root)
    try:
        there = RunPlan(run.config(), run.facts())
        snapshots, warnings = run.checkpoints.load_last_whole()
    except UserError as error:
        raise UserError(f"training.init_from: {error}") from error
    _check_same_parts(run, there, plan)
    for stage in plan.stages:
        _check_fits(run, stage, snapshots, plan)
    blocks, step = plan.config.blocks.count, next(iter(snapshots.values())).step
    prints = {stage.file(blocks): snapshot.fingerprint() for stage, snapshot in sorted(snapshots.items())}
    weights = {stage: snapshots[stage].weights for stage in plan.stages}
    told = tuple(f"{each}; the one before it is used" for each in warnings)
    return Source(StartingWeights(run.link, step, prints), weights, told)


def _check_same_parts(run: RunDirectory, there: RunPlan, here: RunPlan) -> None:
    """Compare what says which stages there are, and how many classes: it tells more than the shape of a weight."""
    for what, was, wanted in (
        ("method", there.config.method, here.config.method),
        ("blocks.count", there.config.blocks.count, here.config.blocks.count),
        ("number of classes", there.facts.classes, here.facts.classes),
        ("a learned W_embed", *("yes" if plan.learns_embedding else "no" for plan in (there, here))),
    ):
        if was != wanted:
            raise UserError(
                f"training.init_from={run}: does not fit this run: {what} is {was} there and {wanted} here; all "
                "stages are taken over, so both runs must have the same"
            )


def _check_fits(run: RunDirectory, stage: Stage, snapshots: Mapping[Stage, Snapshot], plan: RunPlan) -> None:
    if stage not in snapshots:
        raise UserError(f"training.init_from={run}: has no weights of {stage.name} (blocks.only)")
    difference = first_difference(snapshots[stage].weights, _network(plan, stage))
    if difference is not None:
        name, was, wanted = difference
        raise UserError(
            f"training.init_from={run}: does not fit this run: {name} of {stage.name} is {was} there and {wanted} here"
        )


def _network(plan: RunPlan, stage: Stage) -> nn.Module:
    if stage.is_block:
        return plan.block_network(stage.index)
    if stage == EMBEDDING:
        return EmbeddingTable(torch.zeros(plan.facts.classes, plan.embedding_dim))
    return plan.classifier()


def _write(plan: RunPlan, directory: RunDirectory, source: Source, machine: Machine) -> None:
    """Write the snapshots of step 0, and say so in the log."""
    for stage, weights in source.weights.items():
        snapshot = Snapshot(stage, 0, weights, {}, WEIGHTS_ALONE)
        directory.checkpoints.save(snapshot, plan.config.blocks.count, trained_with={})
    told = f"begins with the weights of {source.start.run} at step {source.start.step}"
    directory.append_metrics([News(text=text, time=machine.time()) for text in (*source.warnings, told)])
