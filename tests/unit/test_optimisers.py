"""Optimisers without torch's compiler: the same bits, and nothing of it imported."""

import subprocess
import sys

import pytest
import torch
from single_steps import take_step

from noprop_dist.training import optimisers
from noprop_dist.training.setup import prepare

SETTINGS = {"AdamW": {"weight_decay": 0.01}, "Adam": {}, "SGD": {"momentum": 0.9}}


def trained(kind, settings):
    """Weights after a few steps, the state of the optimiser taken out and put back on the way."""
    torch.manual_seed(0)
    module = torch.nn.Linear(6, 3)
    optimiser = kind(module.parameters(), lr=0.1, fused=True, **settings)
    for step in range(4):
        optimiser.zero_grad(set_to_none=True)
        module(torch.randn(5, 6)).square().sum().backward()
        optimiser.step()
        if step == 1:
            state, optimiser = optimiser.state_dict(), kind(module.parameters(), lr=0.1, fused=True, **settings)
            optimiser.load_state_dict(state)
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


@pytest.mark.parametrize("name", SETTINGS)
def test_an_optimiser_without_the_compiler_gives_the_bits_of_torchs_own(name):
    ours, theirs = (trained(getattr(module, name), SETTINGS[name]) for module in (optimisers, torch.optim))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_is_no_part_of_what_is_differentiated(name):
    module = torch.nn.Linear(2, 1)
    optimiser = getattr(optimisers, name)(module.parameters(), lr=0.1, fused=True, **SETTINGS[name])
    module(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert all(weight.is_leaf and weight.grad_fn is None for weight in module.parameters())


def test_no_gradient_outlives_its_step(small_config):
    """It would lie in the memory that the next step's activations need in one piece."""
    setup, data = prepare(small_config())
    samples = setup.training_samples(data.train.inputs, torch.device("cpu"))
    trainer = setup.block_trainer(1, samples, torch.device("cpu"))
    take_step(trainer, setup.batch_stream(data.train.labels), 0)
    assert all(weight.grad is None for weight in trainer._network.parameters())


@pytest.mark.slow
def test_training_on_digits_waits_for_none_of_the_libraries_that_it_does_not_need(tmp_path):
    settings = "'training.max_steps=4', 'blocks.count=2', 'engine.kind=sequential', 'evaluation.samples=0'"
    code = (
        "import sys; from noprop_dist import api; from noprop_dist.config.layers import load_config\n"
        f"api.train(load_config('digits', None, [{settings}]), {str(tmp_path / 'run')!r})\n"
        "print(*{'torch._dynamo', 'sklearn', 'matplotlib', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
