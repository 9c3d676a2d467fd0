"""One block's step against autograd on the whole objective; snapshots; what an optimiser step must never do."""

import numpy as np
import pytest
import torch
from single_steps import take_step

from noprop_dist.diffusion.objective import classifier_loss, kl_to_prior, predict_embedding, squared_error
from noprop_dist.stages import CLASSIFIER, block
from noprop_dist.storage.snapshot import to_tensors
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")


def trainers_of(setup, data):
    samples = setup.training_samples(data.train.inputs, CPU)
    blocks = [setup.block_trainer(t, samples, CPU) for t in setup.config.blocks.trained()]
    return {trainer.stage: trainer for trainer in [*blocks, setup.classifier_trainer(CPU)]}


def test_gradients_of_all_stages_are_those_of_the_whole_objective(small_config):
    """SGD with learning rate 1: the step is minus the gradient. Autograd differentiates Eq. 8 as one scalar."""
    setup, data = prepare(
        small_config("training.optimizer=sgd", "training.learning_rate=1", "classifier.learning_rate=1",
                     "training.weight_decay=0")
    )  # fmt: skip
    stream, samples = setup.batch_stream(data.train.labels), setup.training_samples(data.train.inputs, CPU)
    networks = {t: setup.plan.block_network(t).train() for t in (1, 2, 3)}
    classifier = setup.plan.classifier()
    batches = {stage: stream.batch(stage, 0) for stage in setup.plan.stages}
    labels = torch.from_numpy(batches[CLASSIFIER].labels).long()
    u_y, x = setup.embedding[labels], samples.batch(batches[CLASSIFIER].indices)
    whole = classifier_loss(classifier(torch.from_numpy(batches[CLASSIFIER].z), setup.embedding), labels)
    whole = whole + kl_to_prior(u_y, setup.plan.schedule.alpha_bar[0])
    for t, network in networks.items():  # T · E_t is the sum over t
        u_hat = predict_embedding(network(x, torch.from_numpy(batches[block(t)].z)), setup.embedding)
        weight = setup.plan.schedule.T / 2 * 0.1 * (setup.plan.schedule.snr(t) - setup.plan.schedule.snr(t - 1))
        whole = whole + weight * squared_error(u_hat, u_y)
    whole.backward()
    for stage, trainer in trainers_of(setup, data).items():
        take_step(trainer, stream, 0)
        stepped = to_tensors(trainer.snapshot().weights)
        for name, parameter in networks.get(stage.index, classifier).named_parameters():
            torch.testing.assert_close(stepped[name], parameter.detach() - parameter.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize(
    "schedule",
    ["{kind: constant}", "{kind: constant, warmup_steps: 3}", "{kind: cosine, warmup_steps: 3}",
     "{kind: step, step_size: 4}", "{kind: one-cycle}"],
)  # fmt: skip
def test_a_restored_snapshot_goes_on_with_the_same_bits(small_config, optimizer, schedule):
    setup, data = prepare(
        small_config(f"training.optimizer={optimizer}", f"training.lr_schedule={schedule}",
                     "training.gradient_clip=0.5", "blocks.network={kind: paper}", "blocks.count=1",
                     "training.batch_size=16")
    )  # fmt: skip
    stream = setup.batch_stream(data.train.labels)
    one = trainers_of(setup, data)[block(1)]
    for step in range(6):
        take_step(one, stream, step)
    snapshot = one.snapshot()
    other = trainers_of(setup, data)[block(1)]
    other.restore(snapshot)
    for step in range(6, 12):
        take_step(one, stream, step)
        take_step(other, stream, step)
    mine, theirs = one.snapshot(), other.snapshot()
    assert mine.fingerprint() == theirs.fingerprint()
    assert mine.settings == theirs.settings
    assert all(np.array_equal(mine.optimizer[name], theirs.optimizer[name]) for name in mine.optimizer)


def test_a_snapshot_does_not_move_with_the_weights(small_setup):
    setup, data = small_setup
    trainer, stream = trainers_of(setup, data)[block(1)], setup.batch_stream(data.train.labels)
    snapshot = trainer.snapshot()
    before = snapshot.fingerprint()
    take_step(trainer, stream, 0)
    assert snapshot.fingerprint() == before != trainer.snapshot().fingerprint()


def test_dropout_is_keyed_by_block_and_step_and_not_by_what_ran_before(small_config):
    setup, data = prepare(small_config("blocks.network={kind: paper}", "blocks.count=2", "training.batch_size=16"))
    stream = setup.batch_stream(data.train.labels)

    def one_step(disturbed):
        trainers = trainers_of(setup, data)
        if disturbed:
            torch.manual_seed(999)
            take_step(trainers[block(2)], stream, 0)
        take_step(trainers[block(1)], stream, 0)
        return trainers[block(1)].snapshot().fingerprint()

    assert one_step(disturbed=False) == one_step(disturbed=True)


@pytest.mark.parametrize("step", [0, 2])
def test_a_step_is_never_done_twice_and_none_is_left_out(small_setup, step):
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    for trainer in trainers_of(setup, data).values():
        take_step(trainer, stream, 0)
        with pytest.raises(RuntimeError, match=f"has done 1 steps, got step {step}"):
            take_step(trainer, stream, step)


def test_a_snapshot_of_another_stage_is_refused(small_setup):
    trainers = trainers_of(*small_setup)
    with pytest.raises(ValueError, match="a snapshot of block 2 cannot restore block 1"):
        trainers[block(1)].restore(trainers[block(2)].snapshot())


def test_gradient_clipping_bounds_the_step(small_config):
    def first_step(*settings):
        setup, data = prepare(
            small_config("training.optimizer=sgd", "training.learning_rate=1", "training.weight_decay=0", *settings)
        )
        trainer = trainers_of(setup, data)[block(3)]
        before = to_tensors(trainer.snapshot().weights)
        report = take_step(trainer, setup.batch_stream(data.train.labels), 0)
        after = to_tensors(trainer.snapshot().weights)
        moved = sum((after[n] - before[n]).square().sum() for n in dict(setup.plan.block_network(3).named_parameters()))
        return float(moved) ** 0.5, report.gradient_norm

    moved, norm = first_step()
    assert moved == pytest.approx(norm, rel=1e-4)
    clipped, same_norm = first_step("training.gradient_clip=0.1")
    assert clipped == pytest.approx(0.1, rel=1e-4)
    assert same_norm == pytest.approx(norm)


def test_a_round_reports_the_mean_of_its_steps(small_setup):
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    single = trainers_of(setup, data)[block(2)]
    losses = [take_step(single, stream, step) for step in range(4)]
    report = train_round(trainers_of(setup, data)[block(2)], stream.round(RoundKey(block(2), 0, 4)))
    assert (report.stage, report.first_step, report.steps, report.steps_done) == (block(2), 0, 4, 4)
    assert report.loss == pytest.approx(sum(each.loss for each in losses) / 4)
    assert report.error == pytest.approx(sum(each.error for each in losses) / 4)
    assert report.seconds > 0


def test_warmup_raises_the_learning_rate_from_small_to_full(small_config):
    setup, data = prepare(small_config("training.lr_schedule={kind: constant, warmup_steps: 4}"))
    trainer, stream = trainers_of(setup, data)[block(1)], setup.batch_stream(data.train.labels)
    import json

    rates = []
    for step in range(6):
        rates.append(json.loads(trainer.snapshot().settings)["groups"][0]["lr"])
        take_step(trainer, stream, step)
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3])
