"""From a configuration to everything that training needs, checked before anything is started."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.data.load import load_data
from noprop_dist.data.prototypes import prototype_indices
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.embedding import random_embedding
from noprop_dist.errors import UserError
from noprop_dist.models.build import check_network
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.stages import EMBEDDING
from noprop_dist.training.setup import RunSetup


def check(config: RunConfig) -> tuple[RunSetup, DataSet]:
    """Load the data and check that configuration, data and networks fit each other.

    Returns:
        A setup without `initial_embedding`, and the data.

    Raises:
        UserError: they do not; nothing has been written or started.
    """
    data = load_data(config.data)
    setup = RunSetup(config, data.facts)
    if setup.steps_per_epoch < 1:
        raise UserError(
            f"training.batch_size={config.training.batch_size} is larger than the training set of "
            f"{len(data.train)} samples"
        )
    setup.augmentation()
    checked: list[object] = []
    for block in config.blocks.trained():
        settings = config.blocks.network_of(block)
        if settings not in checked:
            check_network(setup.block_network(block), setup.shapes, f"blocks.network of block {block}")
            checked.append(settings)
    return setup, data


def prepare(config: RunConfig) -> tuple[RunSetup, DataSet]:
    """Everything that training needs; checked, and with the start of a learned W_embed.

    Raises:
        UserError: configuration, data and networks do not fit each other; nothing has been written or started.
    """
    setup, data = check(config)
    return replace(setup, initial_embedding=_initial_embedding(setup, data)), data


def _initial_embedding(setup: RunSetup, data: DataSet) -> NDArray[np.float32] | None:
    classes = setup.facts.classes
    match setup.config.embedding.kind:
        case "onehot":
            return None
        case "learned":
            # Of that stage, whether or not this method has it: the baseline begins with the same W_embed.
            number = EMBEDDING.number(setup.config.blocks.count)
            seed = stream_seed(setup.config.seed, Purpose.INITIALISATION, number)
            return random_embedding(classes, setup.embedding_dim, seed).numpy()
        case "prototype":
            missing = sorted(set(range(classes)) - set(data.train.labels.tolist()))
            if missing:
                raise UserError(f"embedding.kind=prototype: the training set has no sample of class {missing[0]}")
            samples = Samples(data.train.inputs, setup.facts, torch.device("cpu"))
            return samples.batch(prototype_indices(data.train, classes)).flatten(1).numpy()
