"""`plan`: shows which block goes where and what it takes; starts nothing."""

from rich.table import Table

from noprop_dist import api
from noprop_dist.api.types import Drawing, Placement, RunPlan, WorkerPlace
from noprop_dist.cli.options import warn
from noprop_dist.cli.terminal import FittingTable, Terminal
from noprop_dist.config.schema import RunConfig

console = Terminal()


def show_plan(config: RunConfig, run_dir: str | None) -> None:
    """Print placement, memory, messages and steps of a run."""
    planned = api.plan(config, run_dir)
    warn(planned.notes)
    _print_steps(planned.plan)
    if isinstance(planned.placement, api.Processes):
        _print_baseline(planned, planned.placement)
        return
    if planned.placement is None or planned.drawing is None:
        console.print("engine: sequential, all blocks one after another in one process")
        total = sum(print_.state for print_ in planned.footprints.values())
        console.print(f"memory: {_mib(total)} for weights, gradients and optimisers")
        return
    console.print(f"engine: Ray, {planned.placement.reason}")
    _print_arithmetic(planned.plan)
    console.print(_worker_table(planned, planned.placement))
    console.print(
        f"beside them: coordinator, classifier worker and evaluator (no core of their own); {_data_set(planned)}"
    )
    _print_messages(planned.plan, planned.drawing)


def _print_baseline(planned: api.PlannedRun, processes: api.Processes) -> None:
    """How back-propagation trains all blocks as one network."""
    plan, prints = planned.plan, planned.footprints.values()
    share = plan.config.training.batch_size // processes.count
    state, activations = sum(print_.state for print_ in prints), sum(print_.activations for print_ in prints)
    console.print(f"engine: Ray Train, method=backprop: {processes}")
    console.print(f"arithmetic: {plan.config.training.precision}; {share} samples of every batch in each process")
    console.print(
        f"network: {len(prints)} block(s) and the classifier, trained as one; "
        f"{sum(print_.parameters for print_ in prints):,} parameters in the blocks"
    )
    console.print(
        f"memory of each process: {_mib(state)} for weights, gradients and optimiser, about "
        f"{_mib(activations // processes.count)} for the activations of its share of a batch"
    )
    console.print(f"beside them: coordinator (no core of its own); {_data_set(planned)}")


def _data_set(planned: api.PlannedRun) -> str:
    where = "mapped from its files on each node" if planned.data_is_mapped else "once in each node's object store"
    return f"data set {_mib(planned.data_bytes)}, {where}"


def _print_steps(plan: RunPlan) -> None:
    samples, config = plan.facts.samples, plan.config
    console.print(
        f"data: {plan.facts.name}, {samples['train']:,} training, {samples['validation']:,} validation and "
        f"{samples['test']:,} test samples of shape {plan.facts.input_shape}, {plan.facts.classes} classes"
    )
    blocks = len(config.blocks.trained())
    of_blocks = "" if plan.end_to_end else f", {plan.total_steps * blocks:,} block-steps"
    console.print(
        f"steps: {plan.total_steps:,} of batch {config.training.batch_size} for "
        f"{'the whole network' if plan.end_to_end else f'each of {blocks} block(s)'}, "
        f"{plan.total_steps / plan.steps_per_epoch:.1f} epochs{of_blocks}; "
        f"{len(plan.checkpoint_steps)} checkpoint(s)"
    )
    if plan.end_to_end:  # its chain has no schedule
        return
    alpha_bar = plan.schedule.alpha_bar
    console.print(
        f"schedule: {config.schedule.kind}, alpha_bar from {alpha_bar[0]:g} (noise) to {alpha_bar[-1]:g} (label)"
    )
    if plan.takes_level:
        widths = [each.width for each in plan.noise_ranges.values()]
        noise = config.blocks.noise
        console.print(
            f"noise: each block owns a range of levels, {min(widths):.2g} to {max(widths):.2g} wide in ln SNR; drawn "
            f"{noise.density}, weighted by {noise.weight}"
        )


def _print_messages(plan: RunPlan, drawing: Drawing) -> None:
    engine = plan.config.engine
    console.print(drawing.reason)
    if not drawing.by_coordinator:
        console.print(f"messages: a few hundred bytes a round of {plan.round_steps} steps, whatever its size")
        return
    in_flight = plan.step_bytes * plan.round_steps * engine.prefetch * len(plan.stages)
    console.print(
        f"messages: {plan.step_bytes:,} bytes per block-step, {plan.round_steps} steps a round, at most "
        f"{engine.prefetch} rounds in flight for each block ({_mib(in_flight)} in all)"
    )


def _print_arithmetic(plan: RunPlan) -> None:
    training, on_gpu = plan.config.training, plan.on_gpu
    layout = "channels last" if training.wants_channels_last(on_gpu) else "channels first"
    compiled = ", compiled" if training.compile else ""
    captured = sum(plan.captures_steps_of(stage) for stage in plan.stages if stage.is_block) if on_gpu else 0
    graphs = f"; steps of {captured} block(s) captured as CUDA graphs" if on_gpu else ""
    console.print(f"arithmetic: {training.precision}, {layout}{compiled}{graphs}")


def _worker_table(planned: api.PlannedRun, placement: Placement) -> Table:
    footprints = planned.footprints
    table = FittingTable()
    for column in ("worker", "blocks", "device", "threads", "cores", "parameters", "memory"):
        table.add_column(column, justify="left" if column in ("blocks", "device") else "right")
    for number, worker in enumerate(placement.workers, start=1):
        parameters = sum(footprints[block].parameters for block in worker.blocks)
        memory = _mib(planned.memory_of(worker))
        table.add_row(
            *(str(number), ", ".join(map(str, worker.blocks)), _device(worker)),
            *(str(worker.threads), f"{worker.cpus:g}", f"{parameters:,}", memory),
        )
    return table


def _device(worker: WorkerPlace) -> str:
    return f"GPU ({worker.gpus:g})" if worker.gpus else "CPU"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
