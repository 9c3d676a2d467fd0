"""The short runs that are pinned. Of this folder, only this module imports from the package."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from comparison import Decisions, Outcome, Trajectory

from noprop_dist.baseline.network import assemble_end_to_end
from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.objective import kl_to_prior
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.engines.sequential import train_sequentially
from noprop_dist.inference.load import assemble_network
from noprop_dist.random_streams import Purpose, stream
from noprop_dist.records import EmbeddingUpdated, RoundDone
from noprop_dist.stages import NETWORK, Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training import batch_stream, trainers
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.replicas import ALONE
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import RunSetup, prepare

TEST_IMAGES = 64

PRESET = ("training.max_steps=24", "checkpoint.every_steps=20")

# SGD, because Adam turns the rounding of gradients that ought to be 0 (biases before a batch norm) into whole steps.
# A clean z_T would weigh the last block's loss 100 times as much as the others', which is too much for SGD.
SGD = (
    "blocks.count=3",
    "schedule.alpha_bar_max=0.9",
    "objective.eta=0.3",
    "training.optimizer=sgd",
    "training.batch_size=64",
    "classifier.learning_rate=0.5",
)
SMALL_CONV = (
    *SGD,
    "blocks.network={kind: small-conv, channels: [8, 16], width: 32}",
    "training.learning_rate=0.05",
    "training.max_steps=24",
    "engine.round_steps=4",
)
MLP = (
    *SGD,
    "blocks.network={kind: mlp, width: 32, depth: 1}",
    "training.learning_rate=0.1",
    "training.max_steps=40",
    "engine.round_steps=8",
)
LEARNED = ("embedding={kind: learned, dim: 20, sync_steps: 8, learning_rate: 0.05}",)

RUNS: dict[str, tuple[str, ...]] = {
    "digits-onehot": PRESET,
    "digits-learned": (*PRESET, "embedding.kind=learned", "embedding.sync_steps=8"),
    "digits-prototype": (*PRESET, "embedding.kind=prototype", "embedding.sync_steps=8"),
    "small-conv": SMALL_CONV,
    "mlp": MLP,
    "paper": (*SMALL_CONV, "blocks.count=2", "blocks.network={kind: paper}"),
    "vit": (*MLP, "blocks.network={kind: vit, width: 16, stack: 4}", "training.learning_rate=0.02"),
    "torchvision": (
        *SMALL_CONV,
        "blocks.count=1",
        "blocks.network={kind: torchvision, backbone: mobilenet_v3_small, width: 32}",
        "training.max_steps=8",
        "engine.round_steps=2",
    ),
    # ᾱ_0 is larger than by default, so that W_embed shows the gradient of the KL term.
    "learned": (*SMALL_CONV, *LEARNED, "schedule.alpha_bar_min=0.2"),
    "prototype": (
        *SMALL_CONV,
        "embedding={kind: prototype, sync_steps: 8, learning_rate: 0.05}",
        "training.learning_rate=0.02",
        "objective.eta=0.03",  # prototypes are about eight times as far apart as one-hot embeddings
    ),
    "radial": (*MLP, *LEARNED, "classifier.kind=radial"),
    "augmented": (*MLP, "data.augment={crop_padding: 1, flip: true}"),
    # 1,294 training samples are 4 batches of 300 and a rest that is left out; rounds of 3 cross the epochs.
    "uneven-batches": (*MLP, "training.batch_size=300", "training.max_steps=24", "engine.round_steps=3"),
    "scheduled-and-clipped": (
        *MLP,
        "training.weight_decay=0.01",
        "training.gradient_clip=0.5",
        "training.lr_schedule={kind: cosine, warmup_steps: 5}",
    ),
    "adamw": (
        *MLP,
        "training.optimizer=adamw",
        "training.learning_rate=0.003",
        "training.weight_decay=0.3",  # so strong that leaving it out is seen within a few steps
        "training.max_steps=20",
        "engine.round_steps=4",
    ),
    "back-propagation": (*MLP, "method=backprop", "blocks.count=2", "training.learning_rate=0.5"),
}


def train(settings: Sequence[str]) -> Outcome:
    """Train on the digits in this process, on one CPU thread and without Ray."""
    # The baseline's configuration refuses the sequential engine; no engine is started for it here.
    engine = "ray" if "method=backprop" in settings else "sequential"
    ours = (f"engine.kind={engine}", "engine.device=cpu", "evaluation.samples=0")
    config = load_config("digits", None, [*settings, *ours])
    return _train_end_to_end(config) if config.method == "backprop" else _train_blocks(config)


def _train_blocks(config: RunConfig) -> Outcome:
    setup, data = prepare(config)
    with TemporaryDirectory() as folder:
        directory = RunDirectory(folder)
        directory.create(setup.config, setup.plan.facts)
        train_sequentially(setup, data, directory, lambda _: None)
        records = directory.metrics()
        snapshots = directory.checkpoints.load_all(setup.plan.total_steps)
    losses = {stage.name: Trajectory() for stage in setup.plan.stages}
    for record in records:
        match record:
            case RoundDone(stage=stage):
                losses[stage.name].add(record.loss, record.error)
            case EmbeddingUpdated():
                losses["embedding"].add(record.mean_norm, record.least_distance)
    fingerprints = {stage.name: snapshot.fingerprint() for stage, snapshot in snapshots.items()}
    return Outcome(losses, _decisions(setup, data, snapshots), fingerprints)


def _train_end_to_end(config: RunConfig) -> Outcome:
    setup, data = prepare(config)
    device = setup.start_computing()
    samples = setup.training_samples(data.train.inputs, device)
    trainer = end_to_end_trainer(setup, samples, device, ALONE, wrap=lambda network: network)
    batches, losses = setup.batch_stream(data.train.labels), Trajectory()
    for first in range(0, setup.plan.total_steps, setup.plan.round_steps):
        report = train_round(trainer, batches.round(RoundKey(NETWORK, first, setup.plan.round_steps)))
        losses.add(report.loss, report.error)
    snapshot = trainer.snapshot()
    decisions = _decisions(setup, data, {NETWORK: snapshot})
    return Outcome({NETWORK.name: losses}, decisions, {NETWORK.name: snapshot.fingerprint()})


@torch.inference_mode()
def _decisions(setup: RunSetup, data: DataSet, snapshots: dict[Stage, Snapshot]) -> dict[str, Decisions]:
    cpu = torch.device("cpu")
    if setup.plan.end_to_end:
        network = assemble_end_to_end(setup.plan, snapshots[NETWORK], cpu)
    else:
        network = assemble_network(setup.plan, snapshots, cpu)
    images = Samples(data.held_out.test.inputs, setup.plan.facts, cpu).batch(np.arange(TEST_IMAGES))
    return {
        sampler: Decisions.of(network.decide(images, sampler).probabilities.numpy())
        for sampler in ("mean", "stochastic")
    }


@contextmanager
def noise_of_blocks_1_and_2_swapped() -> Iterator[None]:
    def swapped(seed, purpose, stage=0, epoch=0, step=0):
        stage = {1: 2, 2: 1}.get(stage, stage) if purpose is Purpose.NOISE else stage
        return stream(seed, purpose, stage, epoch, step)

    with patch.object(batch_stream, "stream", swapped):
        yield


@contextmanager
def kl_term_without_gradient() -> Iterator[None]:
    """The KL term keeps its value, so that only W_embed can show the difference."""
    with patch.object(trainers, "kl_to_prior", lambda u_y, alpha_bar_0: kl_to_prior(u_y.detach(), alpha_bar_0)):
        yield


@contextmanager
def z_as_a_constant() -> Iterator[None]:
    """W_embed gets no gradient through z_{t-1}."""
    with patch.object(trainers, "as_function_of_embedding", lambda z_t, u_y, alpha_bar: z_t):
        yield


@contextmanager
def inference_without_b_t() -> Iterator[None]:
    """z_t = a_t û_t + √c_t ε_t, without b_t z_{t-1}."""
    with patch.object(Schedule, "b", lambda self, t: 0.0):
        yield
