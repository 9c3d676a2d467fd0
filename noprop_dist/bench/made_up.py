"""Random images of the size of a data set, to measure speed where the data itself cannot be had."""

import numpy as np

from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataSet, Split, assemble
from noprop_dist.errors import UserError
from noprop_dist.random_streams import Purpose, stream

SHAPES = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
SAMPLES = 10_000


def made_up_data(config: RunConfig) -> DataSet:
    """Images and labels drawn at random.

    Raises:
        UserError: the size of the data set is not known without it.
    """
    name = config.data.name
    if name not in SHAPES:
        raise UserError(f"--made-up: the size of data.name={name} is not known; allowed are {', '.join(SHAPES)}")
    shape, classes = SHAPES[name]
    draw = stream(config.seed, Purpose.SPLIT)
    images = draw.integers(0, 256, (SAMPLES, *shape), dtype=np.uint8)
    whole = Split(images, draw.integers(0, classes, SAMPLES))
    names = tuple(str(label) for label in range(classes))
    return assemble(name, whole, whole.subset(np.arange(classes)), names, config.data.validation_fraction)
