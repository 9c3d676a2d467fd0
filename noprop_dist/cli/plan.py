"""`plan`: which block goes where, what it takes, and nothing started."""

import os
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.data.inputs import MappedInputs
from noprop_dist.engines.core.placement import Placement, Resources, WorkerPlace, place_run
from noprop_dist.engines.core.sampling import Drawing, who_draws
from noprop_dist.engines.ray.cluster import cluster_resources, is_remote, ray_session
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.footprint import Footprint, block_footprint
from noprop_dist.training.preparation import prepare
from noprop_dist.training.setup import RunSetup

console = Console(highlight=False, soft_wrap=True)


def show_plan(config: RunConfig, run_dir: str | None) -> None:
    """Print placement, memory, messages and steps of a run."""
    if run_dir is not None:
        RunDirectory(run_dir).check_unused()
    setup, data = prepare(config)
    footprints = {block: block_footprint(setup, block) for block in config.blocks.trained()}
    _print_steps(setup)
    if config.engine.kind == "sequential":
        console.print("engine: sequential, all blocks one after another in one process")
        total = sum(print_.state for print_ in footprints.values())
        console.print(f"memory: {_mib(total)} for weights, gradients and optimisers")
        return
    placement = place_run(config, _resources(config))
    setup = replace(setup, on_gpu=placement.on_gpu)
    console.print(f"engine: Ray, {placement.reason}")
    _print_arithmetic(setup)
    console.print(_worker_table(placement, footprints))
    console.print(
        f"beside them: coordinator, classifier worker and evaluator (no core of their own); data set "
        f"{_mib(data.train.inputs.nbytes)}, {_place_of(data)}"
    )
    _print_messages(setup, who_draws(setup, placement))


def _resources(config: RunConfig) -> Resources:
    if is_remote(config.engine.address):
        with ray_session(config.engine.address):
            return cluster_resources()
    return Resources(float(os.cpu_count() or 1), float(torch.cuda.device_count()))


def _print_steps(setup: RunSetup) -> None:
    samples, config = setup.facts.samples, setup.config
    console.print(
        f"data: {setup.facts.name}, {samples['train']:,} training, {samples['validation']:,} validation and "
        f"{samples['test']:,} test samples of shape {setup.facts.input_shape}, {setup.facts.classes} classes"
    )
    blocks = len(config.blocks.trained())
    console.print(
        f"steps: {setup.total_steps:,} of batch {config.training.batch_size} for each of {blocks} block(s), "
        f"{setup.total_steps / setup.steps_per_epoch:.1f} epochs, {setup.total_steps * blocks:,} block-steps; "
        f"{len(setup.checkpoint_steps)} checkpoint(s)"
    )
    alpha_bar = setup.schedule.alpha_bar
    console.print(
        f"schedule: {config.schedule.kind}, alpha_bar from {alpha_bar[0]:g} (noise) to {alpha_bar[-1]:g} (label)"
    )


def _print_messages(setup: RunSetup, drawing: Drawing) -> None:
    training, engine = setup.config.training, setup.config.engine
    console.print(drawing.reason)
    if not drawing.by_coordinator:
        console.print(f"messages: a few hundred bytes a round of {setup.round_steps} steps, whatever its size")
        return
    per_step = training.batch_size * (4 + 4 + 4 * setup.shapes.embedding_dim)
    in_flight = per_step * setup.round_steps * engine.prefetch * len(setup.stages)
    console.print(
        f"messages: {per_step:,} bytes per block-step, {setup.round_steps} steps a round, at most "
        f"{engine.prefetch} rounds in flight for each block ({_mib(in_flight)} in all)"
    )


def _print_arithmetic(setup: RunSetup) -> None:
    training, on_gpu = setup.config.training, setup.on_gpu
    layout = "channels last" if training.wants_channels_last(on_gpu) else "channels first"
    compiled = ", compiled" if training.compile else ""
    recorded = sum(setup.records_steps_of(block) for block in setup.config.blocks.trained()) if on_gpu else 0
    graphs = f"; steps of {recorded} block(s) recorded as CUDA graphs" if on_gpu else ""
    console.print(f"arithmetic: {training.precision}, {layout}{compiled}{graphs}")


def _worker_table(placement: Placement, footprints: dict[int, Footprint]) -> Table:
    table = Table()
    for column in ("worker", "blocks", "device", "threads", "cores", "parameters", "memory"):
        table.add_column(column, justify="left" if column in ("blocks", "device") else "right")
    for number, worker in enumerate(placement.workers, start=1):
        parameters = sum(footprints[block].parameters for block in worker.blocks)
        memory = _mib(_memory(worker, footprints, placement.lanes))
        table.add_row(
            *(str(number), ", ".join(map(str, worker.blocks)), _device(worker)),
            *(str(worker.threads), f"{worker.cpus:g}", f"{parameters:,}", memory),
        )
    return table


def _memory(worker: WorkerPlace, footprints: dict[int, Footprint], lanes: int) -> int:
    """All its blocks' state, and the activations of those that are at work."""
    prints = [footprints[block] for block in worker.blocks]
    activations = sorted((print_.activations for print_ in prints), reverse=True)
    return sum(print_.state for print_ in prints) + sum(activations[:lanes])


def _place_of(data: DataSet) -> str:
    mapped = isinstance(data.train.inputs, MappedInputs)
    return "mapped from its files on each node" if mapped else "once in each node's object store"


def _device(worker: WorkerPlace) -> str:
    return f"GPU ({worker.gpus:g})" if worker.gpus else "CPU"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
