"""A recorded step has the bits of one done call by call: on a tape, which is to the CPU what a graph is to a GPU."""

import pytest
import torch
from tape import record_on_tape

from noprop_dist.config.layers import load_config
from noprop_dist.errors import UserError
from noprop_dist.training import setup as run_setup
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingVersion
from noprop_dist.training.execution import STEPS_BEFORE_RECORDING, CallByCall, Recorded
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")
STEPS = 12


@pytest.fixture
def recorded(monkeypatch):
    """Makes trainers record their steps; how many recordings there were."""
    count = []

    def record(compute):
        count.append(compute)
        return record_on_tape(compute)

    def turn_on():
        monkeypatch.setattr(run_setup, "execution_on", lambda device, _: Recorded(CallByCall(device), record))
        return count

    return turn_on


def train(setup, data, stage, stop_after=None):
    """Snapshot and reports of a stage after all steps, in rounds of 4; on the way it may move to another trainer."""
    samples, stream = setup.training_samples(data.train.inputs, CPU), setup.batch_stream(data.train.labels)

    def build():
        is_block = stage < setup.classifier_stage
        return setup.block_trainer(stage, samples, CPU) if is_block else setup.classifier_trainer(CPU)

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


@pytest.mark.parametrize("stage", [2, 4])
@pytest.mark.parametrize(
    "settings",
    [["blocks.network={kind: paper}", "training.gradient_clip=0.5"],
     ["blocks.network={kind: paper}", "training.channels_last=true", "training.precision=bfloat16"],
     ["training.lr_schedule={kind: cosine, warmup_steps: 3}"],
     ["training.optimizer=sgd", "training.lr_schedule={kind: step, step_size: 2}"],
     ["training.optimizer=adam", "embedding={kind: learned, dim: 6, sync_steps: 8}"]],
    ids=lambda settings: settings[0].split("=")[1] + settings[-1],
)  # fmt: skip
def test_replayed_steps_have_the_bits_of_steps_done_call_by_call(small_config, recorded, settings, stage):
    setup, data = prepare(small_config("training.batch_size=16", *settings))
    plain, plain_reports = train(setup, data, stage)
    recordings = recorded()
    replayed, reports = train(setup, data, stage)
    assert len(recordings) == 1
    assert reports == plain_reports
    assert replayed.fingerprint() == plain.fingerprint()
    assert replayed.settings == plain.settings
    assert all((replayed.optimizer[name] == plain.optimizer[name]).all() for name in plain.optimizer)


def test_after_a_restore_a_step_is_recorded_anew(small_config, recorded):
    setup, data = prepare(small_config("training.batch_size=16", "training.channels_last=true"))
    plain, _ = train(setup, data, 1)
    recordings = recorded()
    moved, _ = train(setup, data, 1, stop_after=8)
    assert len(recordings) == 2
    assert moved.fingerprint() == plain.fingerprint()


def test_a_number_that_python_works_out_is_frozen_in_a_recording():
    """What the tests above rest on: the tape notices what a CUDA graph would get wrong."""
    rate, weight = [1.0], torch.zeros(1)

    def compute(x):
        weight.add_(x * rate[0])
        return weight.clone()

    execution = Recorded(CallByCall(CPU), record_on_tape)
    for step in range(STEPS_BEFORE_RECORDING + 2):
        rate[0] = float(step)
        losses = execution(compute, [torch.ones(1)], seed=0)
    assert losses.item() == 0 + 1 + 2 + 3 + 3, "and not 0 + 1 + 2 + 3 + 4"


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [(["training.replicas_per_block=2"], "engine.cuda_graphs=always is not allowed with training.replicas_per_block"),
     (["training.lr_schedule={kind: one-cycle}"], "engine.cuda_graphs=always is not allowed with .*one-cycle")],
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused_or_done_call_by_call(small_config, settings, refusal):
    with pytest.raises(UserError, match=refusal):
        load_config("digits", None, ["engine.cuda_graphs=always", *settings])
    setup, _ = prepare(small_config(*settings))
    assert not setup.records_steps_of(1)


def test_only_networks_of_our_own_are_recorded_unasked(small_config):
    custom = "blocks.networks={2: {kind: torchvision}}"
    setup, _ = prepare(small_config(custom))
    assert [setup.records_steps_of(stage) for stage in (1, 2, 3, 4)] == [True, False, True, True]
    setup, _ = prepare(small_config(custom, "engine.cuda_graphs=always"))
    assert setup.records_steps_of(2)
    setup, _ = prepare(small_config("engine.cuda_graphs=never"))
    assert not setup.records_steps_of(1)
