"""A captured step has the bits of one done call by call: on a tape, which is to the CPU what a graph is to a GPU."""

import pytest
import torch
from tape import capture_on_tape

from noprop_dist.config.layers import load_config
from noprop_dist.errors import UserError
from noprop_dist.stages import CLASSIFIER, block
from noprop_dist.training import setup as run_setup
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingVersion
from noprop_dist.training.execution import STEPS_BEFORE_CAPTURE, CallByCall, Captured
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")
STEPS = 12


@pytest.fixture
def capturing(monkeypatch):
    """Makes trainers capture their steps. Returns a list that grows by one with every capture."""
    captures = []

    def capture(compute):
        captures.append(compute)
        return capture_on_tape(compute)

    def turn_on():
        monkeypatch.setattr(run_setup, "execution_on", lambda device, _: Captured(CallByCall(device), capture))
        return captures

    return turn_on


def train(setup, data, stage, stop_after=None):
    """Snapshot and reports of a stage after all steps, in rounds of 4; on the way it may move to another trainer."""
    samples, stream = setup.training_samples(data.train.inputs, CPU), setup.batch_stream(data.train.labels)

    def build():
        return setup.block_trainer(stage.index, samples, CPU) if stage.is_block else setup.classifier_trainer(CPU)

    trainer, reports = build(), []
    for step in range(0, STEPS, 4):
        if step == stop_after:
            snapshot = trainer.snapshot()
            trainer = build()
            trainer.restore(snapshot)
        version = None
        if setup.config.shares_embedding:
            version = EmbeddingVersion(step // 8, setup.embedding.numpy() * (1 + step // 8))
        report = train_round(trainer, stream.round(RoundKey(stage, step, 4, version)))
        reports.append((report.loss, report.error, report.gradient_norm))
        if report.embedding_gradient is not None:
            reports.append(report.embedding_gradient.tobytes())
    return trainer.snapshot(), reports


@pytest.mark.parametrize("stage", [block(2), CLASSIFIER], ids=lambda stage: stage.name)
@pytest.mark.parametrize(
    "settings",
    [["blocks.network={kind: paper}", "training.gradient_clip=0.5"],
     ["blocks.network={kind: paper}", "training.channels_last=true", "training.precision=bfloat16"],
     ["blocks.network={kind: vit, width: 16, dropout: 0.1}", "training.precision=bfloat16"],
     ["training.lr_schedule={kind: cosine, warmup_steps: 3}"],
     ["training.optimizer=sgd", "training.lr_schedule={kind: step, step_size: 2}"],
     ["training.optimizer=adam", "embedding={kind: learned, dim: 6, sync_steps: 8}"]],
    ids=lambda settings: settings[0].split("=")[1] + settings[-1],
)  # fmt: skip
def test_replayed_steps_have_the_bits_of_steps_done_call_by_call(small_config, capturing, settings, stage):
    setup, data = prepare(small_config("training.batch_size=16", *settings))
    plain, plain_reports = train(setup, data, stage)
    captures = capturing()
    replayed, reports = train(setup, data, stage)
    assert len(captures) == 1
    assert reports == plain_reports
    assert replayed.fingerprint() == plain.fingerprint()
    assert replayed.settings == plain.settings
    assert all((replayed.optimizer[name] == plain.optimizer[name]).all() for name in plain.optimizer)


def test_after_a_restore_a_step_is_captured_anew(small_config, capturing):
    setup, data = prepare(small_config("training.batch_size=16", "training.channels_last=true"))
    plain, _ = train(setup, data, block(1))
    captures = capturing()
    moved, _ = train(setup, data, block(1), stop_after=8)
    assert len(captures) == 2
    assert moved.fingerprint() == plain.fingerprint()


def test_a_number_that_python_works_out_is_frozen_in_a_capture():
    """What the tests above rest on: the tape notices what a CUDA graph would get wrong."""
    rate, weight = [1.0], torch.zeros(1)

    def compute(x):
        weight.add_(x * rate[0])
        return weight.clone()

    execution = Captured(CallByCall(CPU), capture_on_tape)
    for step in range(STEPS_BEFORE_CAPTURE + 2):
        rate[0] = float(step)
        losses = execution(compute, [torch.ones(1)], seed=0)
    assert losses.item() == 0 + 1 + 2 + 3 + 3, "and not 0 + 1 + 2 + 3 + 4"


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [(["training.replicas_per_block=2"], "engine.cuda_graphs=always is not allowed with training.replicas_per_block"),
     (["training.lr_schedule={kind: one-cycle}"], "engine.cuda_graphs=always is not allowed with .*one-cycle")],
)  # fmt: skip
def test_what_cannot_be_captured_is_refused_or_done_call_by_call(small_config, settings, refusal):
    with pytest.raises(UserError, match=refusal):
        load_config("digits", None, ["engine.cuda_graphs=always", *settings])
    setup, _ = prepare(small_config(*settings))
    assert not setup.plan.captures_steps_of(block(1))


def test_only_networks_of_our_own_are_captured_unasked(small_config):
    custom = "blocks.networks={2: {kind: torchvision}}"
    setup, _ = prepare(small_config(custom))
    assert [setup.plan.captures_steps_of(stage) for stage in setup.plan.stages] == [True, False, True, True]
    setup, _ = prepare(small_config(custom, "engine.cuda_graphs=always"))
    assert setup.plan.captures_steps_of(block(2))
    setup, _ = prepare(small_config("engine.cuda_graphs=never"))
    assert not setup.plan.captures_steps_of(block(1))
