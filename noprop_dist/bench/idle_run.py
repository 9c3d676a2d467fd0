"""A run of the engine with idle workers: its coordinator, its messages and its records, and no training."""

import tempfile
from collections.abc import Sequence
from functools import partial

from noprop_dist.bench.idle_workers import NoopWorker
from noprop_dist.bench.rates import undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.actors import ActorMaker
from noprop_dist.engines.ray.coordinator import Coordinator
from noprop_dist.storage.checkpoint_files import Record
from noprop_dist.storage.run_directory import RunDirectory


def idle_records(
    blocks: int, steps: int, workers: int, worker: type[NoopWorker], settings: Sequence[str] = ()
) -> list[Record]:
    """What a run of digits whose workers are idle wrote down.

    Args:
        blocks: T.
        steps: of each.
        workers: processes that hold blocks.
        worker: their class.
        settings: further ones.
    """
    fixed = [
        *undisturbed(steps, workers),
        *(f"blocks.count={blocks}", "blocks.network={kind: mlp, width: 8, depth: 1}"),
        *(f"checkpoint.snapshot_every_steps={steps}", "engine.device=cpu", "engine.start_timeout_seconds=900"),
    ]
    config = load_config("digits", None, [*fixed, *settings])
    actors = partial(ActorMaker, block_worker=worker, classifier_worker=NoopWorker)
    with tempfile.TemporaryDirectory(prefix="noprop-dist-bench-") as folder:
        Coordinator(config, f"{folder}/run", actors=actors).run()
        return RunDirectory(f"{folder}/run").metrics()
