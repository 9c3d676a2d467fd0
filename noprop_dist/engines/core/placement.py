"""Which block goes to which worker, and what each worker asks of the cluster: pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import TypeVar

from noprop_dist.config.schema import EngineSettings, RunConfig
from noprop_dist.config.sections.engine import WorkerRange
from noprop_dist.errors import UserError

Block = TypeVar("Block")
GPU_SHARE_OF_BLOCKS = 0.9
"""The rest of a GPU leaves room for evaluator and classifier worker."""
MOST_SHARING = 16
"""Processes on one core or GPU. Each takes seconds of a core to start, and memory of its own."""
GPU_LANES = 8
"""Kernels of one block fill a small part of a large GPU; each lane is a thread, and Python runs one at a time."""


@dataclass(frozen=True)
class Resources:
    """What a machine or cluster has.

    Attributes:
        cpus: cores.
        gpus: GPUs.
        node_cpus: cores of its largest machine; None if that is not known.
        node_memory_bytes: that actors may take on its largest machine; None if that is not known.
        grows: whether an autoscaler adds machines for actors that have no room.
        gpus_come: whether that can add GPUs.
    """

    cpus: float
    gpus: float
    node_cpus: float | None = None
    node_memory_bytes: float | None = None
    grows: bool = False
    gpus_come: bool = False


@dataclass(frozen=True)
class WorkerPlace:
    """One block worker.

    Attributes:
        blocks: that it begins with; none if the cluster has no room for it so far.
        cpus: share of cores that it asks for; less than its threads where cores are shared.
        gpus: share of a GPU that it asks for.
        threads: CPU threads that it computes with.
    """

    blocks: tuple[int, ...]
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True)
class Placement:
    """All block workers, and what they have in common.

    Attributes:
        workers: block workers.
        side_gpus: share of a GPU that evaluator and classifier worker ask for, each.
        lanes: blocks that a worker trains at the same time.
        spare_cpus: cores that no worker asks for.
        reason: for people.
    """

    workers: tuple[WorkerPlace, ...]
    side_gpus: float
    lanes: int
    spare_cpus: float
    reason: str

    @property
    def on_gpu(self) -> bool:
        """Return True if the run computes on GPUs."""
        return self.side_gpus > 0


def place(blocks: tuple[int, ...], engine: EngineSettings, resources: Resources, replicas: int = 1) -> Placement:
    """Place blocks: a worker for each if there are GPUs or cores enough, else several blocks in a worker.

    Where the cluster grows, there are also workers for which it has no room yet: that they wait for it is what asks the
    autoscaler for more.

    Args:
        blocks: that are trained.
        engine: settings.
        resources: of the cluster.
        replicas: processes of each worker; each of them asks for what its `WorkerPlace` says.

    Raises:
        UserError: GPUs are asked for, and there are none and will be none.
    """
    on_gpu = uses_gpus(engine, resources)
    if on_gpu and resources.gpus < 1 and not resources.gpus_come:
        raise UserError("engine.device=cuda: there is no GPU here; use engine.device=cpu or auto")
    threads, slots = engine.threads_per_worker, room(engine, resources)
    workers = min(wanted_workers(engine, len(blocks), max(1, slots // replicas), resources.grows), len(blocks))
    here = min(workers, slots // replicas) if resources.grows else workers
    if not has_devices(resources, gpus=on_gpu):
        here = 0
    crowd = 1 if resources.grows else ceil(workers * replicas / slots)
    cpus = _cpus(engine, resources, workers * replicas) if on_gpu else threads / crowd
    gpus = ray_share(GPU_SHARE_OF_BLOCKS / crowd) if on_gpu else 0.0
    # Where workers come and go, each may come to hold them all.
    together = len(blocks) if resources.grows else ceil(len(blocks) / workers)
    lanes = _lanes(engine, on_gpu, together) if replicas == 1 else 1
    parts = [*deal(blocks, here), *(() for _ in range(workers - here))]
    places = tuple(WorkerPlace(tuple(part), ray_share(cpus), gpus, threads) for part in parts)
    available = f"{_slots(engine, resources)} available" if here else _NONE_YET[on_gpu]
    shared = f", each shared by {crowd} processes" if crowd > 1 else ""
    reason = _reason(len(blocks), here, workers, replicas, f"{available}{shared}", lanes)
    spare = 0.0 if resources.grows else resources.cpus - workers * replicas * cpus
    return Placement(places, _side_gpus(on_gpu), lanes, spare, reason)


_NONE_YET = {
    False: "no machine is here yet",
    True: "no GPU is here yet, and the run waits for those that the cluster can add (engine.device=cpu does without)",
}


def wanted_workers(engine: EngineSettings, blocks: int, room: int, grows: bool) -> int:
    """Block workers that a run has use for.

    Args:
        engine: settings.
        blocks: that are left to train.
        room: workers that the cluster has devices for now.
        grows: whether it adds devices for workers that have none.
    """
    if isinstance(engine.workers, int):
        return min(engine.workers, blocks)
    most = blocks if grows else min(room, blocks)
    return most if engine.workers == "auto" or engine.workers.max == "auto" else min(engine.workers.max, most)


def workers_to_begin(engine: EngineSettings, blocks: int) -> int:
    """Workers that have to be there before a run begins; `blocks` are left to train."""
    return min(least_workers(engine), blocks)


def least_workers(engine: EngineSettings) -> int:
    """Workers that have to be there before a run begins, however few blocks it has."""
    return engine.workers.min if isinstance(engine.workers, WorkerRange) else 1


def _cpus(engine: EngineSettings, resources: Resources, processes: int) -> float:
    """Cores that each process on a GPU asks for. The cores of machines that are still to come are not known."""
    threads = float(engine.threads_per_worker)
    return threads if resources.grows else min(threads, resources.cpus / processes)


def _reason(blocks: int, here: int, workers: int, replicas: int, devices: str, lanes: int) -> str:
    each = f" of {replicas} replicas" if replicas > 1 else ""
    asked = f", {workers - here} more asked for" if here < workers else ""
    together = f", up to {lanes} blocks of a worker at the same time" if lanes > 1 else ""
    return f"{blocks} block(s) on {here or workers} worker(s){each}: {devices}{asked}{together}"


def _side_gpus(on_gpu: bool) -> float:
    return ray_share((1 - GPU_SHARE_OF_BLOCKS) / 2) if on_gpu else 0.0


def _lanes(engine: EngineSettings, on_gpu: bool, blocks: int) -> int:
    """Blocks that a worker of so many trains at the same time."""
    if engine.blocks_at_once != "auto":
        return engine.blocks_at_once
    return min(GPU_LANES, blocks) if on_gpu else 1


def place_run(config: RunConfig, resources: Resources) -> Placement:
    """The placement of a run's blocks.

    Raises:
        UserError: GPUs are asked for and there are none.
    """
    return place(config.blocks.trained(), config.engine, resources, config.training.replicas_per_block)


def place_again(config: RunConfig, resources: Resources, trained_on: str | None) -> Placement:
    """The placement of a run that goes on: it is not refused, for what its cluster has lost may come back.

    Args:
        config: of the run.
        resources: of the cluster as it is now.
        trained_on: the kind of device so far, "cpu" or "cuda". An `engine.device=auto` stays on it: another kind
            computes other bits. None if it is not known.

    Returns:
        The placement. It has no workers while the cluster has no device for any; they are added once it has.
    """
    engine = config.engine
    if engine.device == "auto" and trained_on is not None:
        engine = on_device(engine, gpu=trained_on == "cuda")
    on_gpu = uses_gpus(engine, resources)
    if may_place(resources, gpus=on_gpu):
        return place_run(config.model_copy(update={"engine": engine}), resources)
    instead = "; engine.device=cpu goes on without, with other bits" if on_gpu else ""
    reason = f"no {'GPU' if on_gpu else 'machine'} is here now, and the run waits for one{instead}"
    return Placement((), _side_gpus(on_gpu), 1, 0.0, reason)


def on_device(engine: EngineSettings, *, gpu: bool) -> EngineSettings:
    """The settings of a run that computes on this kind of device, whatever a machine has."""
    return engine.model_copy(update={"device": "cuda" if gpu else "cpu"})


def has_devices(resources: Resources, *, gpus: bool) -> bool:
    """Return True if a cluster has any device of a kind."""
    return resources.gpus >= 1 if gpus else resources.cpus > 0


def may_place(resources: Resources, *, gpus: bool) -> bool:
    """Return True if a cluster has a device of a kind, or can get one."""
    return has_devices(resources, gpus=gpus) or (resources.gpus_come if gpus else resources.grows)


def check_room(config: RunConfig, placement: Placement, resources: Resources) -> None:
    """Refuse a run that cannot begin here, or whose blocks would wait for each other without end.

    Where W_embed is learned, a version ends once all blocks have trained against it: all must be held at once.
    A run that has begun is not checked again: what its cluster has lost may come back.

    Raises:
        UserError: the machines have no room for the workers, or the workers cannot hold all blocks.
    """
    limit, blocks, workers = config.engine.blocks_per_worker, config.blocks.trained(), len(placement.workers)
    check_sharing(config, workers * config.training.replicas_per_block, resources)
    if config.shares_embedding and limit is not None and limit * workers < len(blocks):
        raise UserError(
            f"engine.blocks_per_worker={limit}: {workers} worker(s) hold {limit * workers} of {len(blocks)} blocks "
            "at a time, and a learned W_embed takes all of them at once; allow more a worker, or use more workers"
        )


def check_sharing(config: RunConfig, processes: int, resources: Resources) -> None:
    """Refuse threads that fit into no machine, and so many processes that they would hardly get to training.

    Raises:
        UserError: as described.
    """
    engine, replicas = config.engine, config.training.replicas_per_block
    threads, cores = engine.threads_per_worker, resources.node_cpus
    if resources.grows:
        return  # by machines of which nothing is known yet
    if not uses_gpus(engine, resources) and cores is not None and threads > cores:
        raise UserError(
            f"engine.threads_per_worker={threads}: no machine here has more than {cores:g} core(s), "
            "so no worker could start"
        )
    if processes > MOST_SHARING * room(engine, resources):
        raise UserError(
            f"engine.workers={engine.workers}, training.replicas_per_block={replicas}, engine.threads_per_worker="
            f"{threads}: {processes} processes would share {_slots(engine, resources)}, "
            f"at most {MOST_SHARING} may share one"
        )


def uses_gpus(engine: EngineSettings, resources: Resources) -> bool:
    """Return True if a run computes on GPUs, those included that its cluster can add."""
    return engine.device == "cuda" or (engine.device == "auto" and (resources.gpus >= 1 or resources.gpus_come))


def room(engine: EngineSettings, resources: Resources) -> int:
    """How many processes can have a GPU, or all of their cores, to themselves; at least one."""
    slots = resources.gpus if uses_gpus(engine, resources) else resources.cpus // engine.threads_per_worker
    return max(1, int(slots))


def _slots(engine: EngineSettings, resources: Resources) -> str:
    """What `room` counts, for people: "2 cores", "1 group of 4 cores", "8 GPUs"."""
    slots, threads = room(engine, resources), engine.threads_per_worker
    plural = "s" if slots > 1 else ""
    if uses_gpus(engine, resources):
        return f"{slots} GPU{plural}"
    return f"{slots} group{plural} of {threads} cores" if threads > 1 else f"{slots} core{plural}"


def deal(blocks: Sequence[Block], workers: int) -> list[Sequence[Block]]:
    """Neighbouring blocks together, the counts of any two workers differing by at most one."""
    bounds = [len(blocks) * worker // workers for worker in range(workers + 1)] if workers else [0]
    return [blocks[first:last] for first, last in pairwise(bounds)]


def ray_share(amount: float) -> float:
    """Round down to ten-thousandths, in which Ray counts resources, so that the shares of a whole fit into it."""
    return int(amount * 10_000) / 10_000
