"""One step of a trainer at a time."""

from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.rounds import train_round


def take_step(trainer, stream, step):
    """The report of one step, done as a round of its own."""
    return train_round(trainer, stream.round(RoundKey(trainer.stage, step, 1)))
