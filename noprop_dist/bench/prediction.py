"""What `predict --out` costs over bare forward passes of the blocks: reading, the chain, the classifier, the file."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noprop_dist import api
from noprop_dist.bench.harness import Say, SideRow, Spread, alternate
from noprop_dist.data.samples import Samples
from noprop_dist.data.unlabelled import FewLines, find_samples
from noprop_dist.inference.load import TrainedRun
from noprop_dist.inference.predictions import BATCH
from noprop_dist.torch_state import ALL_CORES, as_in_a_new_process


@dataclass(frozen=True)
class PredictionCost:
    """Seconds of both sides, for the same images."""

    predict: Spread
    bare: Spread

    @property
    def ratio(self) -> float:
        """Median of `predict` over median of the bare forward passes."""
        return self.predict.median / self.bare.median

    def rows(self) -> list[SideRow]:
        return [SideRow("predict --out", self.predict), SideRow("bare forward passes", self.bare)]


@as_in_a_new_process(ALL_CORES)
def bench_prediction(run_dir: str, images: Sequence[str | Path], repeats: int, say: Say) -> PredictionCost:
    """Measure both sides in turns, after a turn that is not counted, with the mean sampler.

    Args:
        run_dir: of the network.
        images: as for `predict`.
        repeats: turns.
        say: told what is being measured.
    """
    run = api.open_run(run_dir)
    batches = _normalised(run, images, say)
    sides = {"bare forward passes": lambda _: _bare(run, batches), "predict --out": lambda _: _predict(run, images)}
    bare, predict = alternate(sides, repeats, say, lambda seconds: f"{seconds:.2f} s", warm_ups=1).values()
    return PredictionCost(Spread(predict), Spread(bare))


def _normalised(run: TrainedRun, images: Sequence[str | Path], say: Say) -> list[Tensor]:
    source = find_samples(images, run.plan.facts, str(run.directory), FewLines(say))
    firsts = range(0, len(source), BATCH)
    stored = (source.read(range(first, min(first + BATCH, len(source))))[0] for first in firsts)
    return [Samples(each, run.plan.facts, run.network.device).batch(np.arange(len(each))) for each in stored]


@torch.inference_mode()
def _bare(run: TrainedRun, batches: Sequence[Tensor]) -> float:
    begin = time.perf_counter()
    for x in batches:
        z = torch.zeros(len(x), run.plan.embedding_dim, device=x.device)
        for block in run.network.blocks:
            logits = block(x, z)
        logits.cpu()  # waits for a GPU
    return time.perf_counter() - begin


def _predict(run: TrainedRun, images: Sequence[str | Path]) -> float:
    with tempfile.TemporaryDirectory(prefix="noprop-dist-predict-") as folder:
        begin = time.perf_counter()
        api.predict_into(run, images, Path(folder) / "predictions.csv")
        return time.perf_counter() - begin
