"""A run of the baseline without Ray Train."""

import time
from dataclasses import replace

import torch

from noprop_dist.api import Result
from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.stages import NETWORK
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.replicas import ALONE
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare


def trained_end_to_end(config, folder, steps=8):
    """What the baseline leaves in its run directory after so many steps, all in one round."""
    setup, data = prepare(config)
    directory = RunDirectory(folder)
    directory.create(config, setup.plan.facts)
    cpu = torch.device("cpu")
    trainer = end_to_end_trainer(setup, setup.training_samples(data.train.inputs, cpu), cpu, ALONE, lambda net: net)
    report = train_round(trainer, setup.batch_stream(data.train.labels).round(RoundKey(NETWORK, 0, steps)))
    directory.append_metrics([replace(report.record(), time=time.time())])
    setup.checkpoint_writer(directory).add(trainer.snapshot())
    return Result(folder)
