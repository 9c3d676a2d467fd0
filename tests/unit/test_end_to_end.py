"""The back-propagation baseline: its chain, its step, and how its batches are shared out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from single_steps import take_step

from noprop_dist.api.training import check_same_run
from noprop_dist.baseline import coordinator
from noprop_dist.baseline.network import assemble_end_to_end, end_to_end_chain, end_to_end_network
from noprop_dist.baseline.placement import place_baseline
from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.config.bits import with_workers
from noprop_dist.engines.core.placement import Resources
from noprop_dist.errors import UserError
from noprop_dist.random_streams import Purpose, stream
from noprop_dist.stages import NETWORK
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.fine_tuning import begin
from noprop_dist.training.replicas import ALONE
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")


def trainer_of(setup, data, group=ALONE):
    samples = setup.training_samples(data.train.inputs, CPU)
    return end_to_end_trainer(setup, samples, CPU, group, lambda module: module)


def test_the_chain_is_that_of_the_paper():
    """z_t = (1 − α_t) z_{t-1} + α_t û_t with û_t = softmax(logits) W (Eq. 18), by hand for two blocks."""
    W, alpha = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.25, 0.5])
    blocks = [lambda _, z: torch.log(torch.tensor([[1.0, 3.0]])) + 0 * z, lambda _, z: 0 * z]
    first, second = end_to_end_chain(blocks, alpha, W, torch.zeros(1), torch.tensor([[4.0, 8.0]]))
    torch.testing.assert_close(first.u_hat, torch.tensor([[0.25, 1.5]]))
    torch.testing.assert_close(first.z, torch.tensor([[3.0625, 6.375]]))
    torch.testing.assert_close(second.z, torch.tensor([[1.78125, 3.6875]]))


@pytest.mark.parametrize("embedding", ["onehot", "learned", "prototype"])
def test_a_step_is_back_propagation_through_all_blocks(small_config, embedding):
    """SGD with learning rate 1: the step is minus the gradient, here from the formulas written down once more."""
    setup, data = prepare(
        small_config("method=backprop", "training.optimizer=sgd", "training.learning_rate=1", "training.weight_decay=0",
                     "classifier.learning_rate=1", f"embedding={{kind: {embedding}}}")
    )  # fmt: skip
    batch = setup.batch_stream(data.train.labels).batch(NETWORK, 0)
    network = end_to_end_network(setup.plan, setup.embedding).train()
    epsilon = stream(0, Purpose.NOISE, stage=1).standard_normal(batch.z.shape, dtype=np.float32)
    z, x = torch.from_numpy(epsilon), setup.training_samples(data.train.inputs, CPU).batch(batch.indices)
    for t, block in enumerate(network.blocks):
        alpha = torch.tanh(network.w[t])
        z = (1 - alpha) * z + alpha * torch.softmax(block(x, z), dim=1) @ network.embedding
    scores = F.linear(z, network.classifier.weight, network.classifier.bias)
    (-torch.log_softmax(scores, 1)[torch.arange(len(x)), torch.from_numpy(batch.labels).long()].mean()).backward()
    trainer = trainer_of(setup, data)
    take_step(trainer, setup.batch_stream(data.train.labels), 0)
    stepped = trainer.snapshot().weights
    for name, parameter in network.named_parameters():
        moved = parameter.detach() if parameter.grad is None else parameter.detach() - parameter.grad
        torch.testing.assert_close(torch.from_numpy(stepped[name]), moved, rtol=1e-5, atol=1e-6)
    assert (network.embedding.grad is None) == (embedding == "onehot")


def test_the_network_begins_with_the_weights_that_noprop_begins_with(small_config):
    setup, _ = prepare(small_config("method=backprop"))
    noprop, _ = prepare(small_config())
    for t, block in enumerate(end_to_end_network(setup.plan, setup.embedding).blocks, start=1):
        expected = noprop.plan.block_network(t).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in block.state_dict().items())


def test_a_restored_network_goes_on_with_the_same_bits(small_config):
    setup, data = prepare(small_config("method=backprop", "training.lr_schedule={kind: one-cycle}"))
    batches = setup.batch_stream(data.train.labels)
    whole, first, second = (trainer_of(setup, data) for _ in range(3))
    for step in range(6):
        take_step(whole, batches, step)
    for step in range(3):
        take_step(first, batches, step)
    second.restore(first.snapshot())
    for step in range(3, 6):
        take_step(second, batches, step)
    assert second.snapshot().fingerprint() == whole.snapshot().fingerprint()
    with pytest.raises(RuntimeError, match="has done 6 steps, got step 3"):
        take_step(second, batches, 3)


def test_the_trained_network_decides_like_any_other(small_config):
    setup, data = prepare(small_config("method=backprop"))
    trainer = trainer_of(setup, data)
    network = assemble_end_to_end(setup.plan, trainer.snapshot(), CPU)
    x = setup.training_samples(data.train.inputs, CPU).batch(np.arange(5))
    with torch.inference_mode():
        decision, other = network.decide(x, "mean"), network.decide(x, "mean", first_pass=1)
        whole = end_to_end_network(setup.plan, setup.embedding).eval()(x, network.noise(5, 0, 0, 0))
    torch.testing.assert_close(decision.probabilities, whole.softmax(dim=1))
    assert not torch.equal(decision.probabilities, other.probabilities), "another z_0"


@pytest.mark.parametrize(("cpus", "batch", "expected"), [(2, 128, 2), (3, 128, 2), (1, 128, 1), (7, 35, 7), (4, 9, 3)])
def test_as_many_processes_as_there_is_room_for_share_a_batch_evenly(small_config, cpus, batch, expected):
    config = small_config("method=backprop", f"training.batch_size={batch}")
    assert place_baseline(config, Resources(cpus, 0)).count == expected


def test_a_run_goes_on_with_the_number_of_processes_that_it_began_with(small_config, tmp_path, monkeypatch):
    """Their number changes the bits, and another cluster has other room."""

    def settled(cores, resume):
        monkeypatch.setattr(coordinator, "cluster_resources", lambda: Resources(cores, 0, node_cpus=cores))
        return coordinator.EndToEndCoordinator(given, str(tmp_path / "run"), resume)._settled()

    given = small_config("method=backprop", "training.batch_size=8")
    config, processes = settled(4, resume=False)
    assert (config.engine.workers, processes.count) == (4, 4)
    directory = RunDirectory(str(tmp_path / "run"))
    begin(prepare(config)[0].plan, directory)
    for cores in (2, 8):
        config, processes = settled(cores, resume=True)
        assert (config.engine.workers, processes.count) == (4, 4)
    check_same_run(directory, given)  # `train --or-resume` with the same words
    with pytest.raises(UserError, match="holds a run whose engine.workers is 4, not 2"):
        check_same_run(directory, with_workers(given, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [(["engine.workers=3", "training.batch_size=128"], "engine.workers=3: does not divide training.batch_size=128"),
     (["engine.workers=1000", "training.batch_size=128"], "engine.workers=1000, .*1000 processes would share 2 cores"),
     (["engine.workers=20", "training.batch_size=16"], "does not divide .*; there are 20 processes for 16 samples"),
     (["engine.workers=64", "training.batch_size=128"], "engine.workers=64, .*64 processes would share 2 cores"),
     (["engine.threads_per_worker=4"], "engine.threads_per_worker=4: no machine here has more than 2 core")],
)  # fmt: skip
def test_processes_that_cannot_share_a_batch_or_a_machine_are_refused(small_config, settings, message):
    with pytest.raises(UserError, match=message):
        place_baseline(small_config("method=backprop", *settings), Resources(2, 0, node_cpus=2))


def test_more_processes_than_a_machine_has_gpus_are_refused(small_config):
    config = small_config("method=backprop", "engine.workers=2", "training.batch_size=128")
    with pytest.raises(UserError, match="engine.workers=2: method=backprop takes a GPU for each process, there are 1"):
        place_baseline(config, Resources(8, 1), may_grow=False)
    assert place_baseline(config, Resources(8, 1)).count == 2, "a cluster may grow"


@pytest.mark.parametrize(
    ("setting", "message"),
    [("blocks.only=1-2", "blocks.only is not allowed with method=backprop"),
     ("engine.kind=sequential", "engine.kind=sequential is not allowed with method=backprop"),
     ("blocks.training.1={learning_rate: 0.1}", "blocks.training is not allowed with method=backprop")],
)  # fmt: skip
def test_what_has_no_meaning_end_to_end_is_refused(small_config, setting, message):
    with pytest.raises(UserError, match=message):
        small_config("method=backprop", setting)
