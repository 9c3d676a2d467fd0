"""Replicas of a block do what one process with the whole batch does, up to the order of sums."""

import multiprocessing
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import nn

from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.loopback import free_port
from noprop_dist.errors import UserError
from noprop_dist.stages import block
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.group_batch_norm import GroupBatchNorm
from noprop_dist.training.replicas import ALONE, GroupLostError, ReplicaGroup
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")
STEPS = 6
SETTINGS = ["blocks.count=2", "training.max_steps=12", "metrics.port=null", "training.optimizer=sgd"]
"""SGD, for Adam divides by the root of squares that may be nothing but rounding."""


def in_group(size, task):
    """What `task(group)` returns in each of `size` processes, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["noprop_dist.training.setup"])  # imports once for all processes
    results, port = context.Queue(), free_port()
    processes = [context.Process(target=_replica, args=(rank, size, port, task, results)) for rank in range(size)]
    for process in processes:
        process.start()
    returned = dict(results.get(timeout=100) for _ in processes)
    for process in processes:
        process.join(timeout=20)
    return [returned[rank] for rank in range(size)]


def _replica(rank, size, port, task, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    results.put((rank, task(ReplicaGroup(rank, size))))
    dist.destroy_process_group()


def of_rank(rank):
    return torch.randn(7, generator=torch.Generator().manual_seed(rank)) * 10.0 ** torch.arange(-3, 4)


def sums(group):
    mine = of_rank(group.rank)
    gradients = [mine[:3].clone(), mine[3:].clone().view(2, 2)]
    group.average_(gradients)
    return group.sum(mine).numpy(), [gradient.numpy() for gradient in gradients]


@pytest.mark.slow  # starts processes
def test_sums_are_taken_in_the_order_of_ranks_on_every_replica():
    expected = of_rank(0) + of_rank(1) + of_rank(2)
    for total, (first, second) in in_group(3, sums):
        assert np.array_equal(total, expected)
        assert np.array_equal(np.concatenate([first, second.ravel()]), expected / 3)


def train(group):
    """A few steps of block 2 of digits: weights, losses and the gradient of W_embed."""
    setup, data = prepare(load_config("digits", None, [*SETTINGS, "embedding={kind: learned}"]))
    trainer = setup.block_trainer(2, setup.training_samples(data.train.inputs, CPU), CPU, group)
    work = setup.batch_stream(data.train.labels).round(RoundKey(block(2), 0, STEPS))
    report = train_round(trainer, group.share(work))
    return trainer.snapshot().weights, replace(report, seconds=0.0)


@pytest.mark.slow
def test_replicas_train_as_one_process_with_the_whole_batch():
    weights, report = train(ALONE)
    replicas = in_group(4, train)
    for own, own_report in replicas:
        assert all(np.array_equal(own[name], replicas[0][0][name]) for name in weights), "all replicas hold the same"
        assert own.keys() == weights.keys()
        assert own["image_path.0.weight"].dtype == np.float32
        for name, expected in weights.items():
            assert np.abs(own[name] - expected).max() <= 2e-6 * max(1.0, np.abs(expected).max()), name
        assert own_report.loss == pytest.approx(report.loss, rel=1e-5)
        error = np.linalg.norm(own_report.embedding_gradient - report.embedding_gradient)
        assert error < 1e-4 * np.linalg.norm(report.embedding_gradient)


def lose_the_other(group):
    group.sum(torch.ones(3))  # both are there
    if group.rank == 1:
        return "gone"
    try:
        while True:
            group.sum(torch.ones(3))
    except GroupLostError as error:
        return str(error)


@pytest.mark.slow
def test_a_replica_that_is_gone_is_noticed():
    told, _ = in_group(2, lose_the_other)
    assert told.startswith("a replica does not answer: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.replicas_per_block=3"], "must divide training.batch_size=128"),
        (["training.replicas_per_block=128"], "into shares of at least 2"),
        (["training.replicas_per_block=2", "engine.kind=sequential"], "needs engine.kind=ray and method=noprop"),
        (["training.replicas_per_block=2", "method=backprop"], "needs engine.kind=ray and method=noprop"),
    ],
)
def test_replicas_that_cannot_share_the_work_are_refused(settings, message):
    with pytest.raises((UserError, ValidationError), match=message):
        load_config("digits", None, settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_over_a_group_of_one_is_batch_norm(dtype):
    """Statistics are taken in float32, as torch does, whatever comes in."""
    layer = nn.BatchNorm1d(5).train()
    own = GroupBatchNorm(deepcopy(layer), 0.1, ALONE)
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).mul(3).add(100).to(dtype)
    expected, found = layer(x), own(x)
    assert found.dtype == expected.dtype == dtype
    torch.testing.assert_close(found, expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-4, rtol=1e-4)
    torch.testing.assert_close(own.running_mean, layer.running_mean)
    torch.testing.assert_close(own.running_var, layer.running_var, rtol=1e-4, atol=1e-4)
