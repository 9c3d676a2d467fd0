"""Every random number of a run, from counter-based streams (NumPy's Philox) keyed by what it is for.

A stream is a pure function of (seed, purpose, stage, epoch, step): nothing about placement, timing, number of
workers or failures enters it, so anyone can produce any batch again at any time.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; two purposes never share a number."""

    ORDER = 1
    NOISE = 2
    DROPOUT = 3
    AUGMENTATION = 4
    INITIALISATION = 5
    EVALUATION = 6
    SPLIT = 7
    LEVEL = 8


def stream(seed: int, purpose: Purpose, stage: int = 0, epoch: int = 0, step: int = 0) -> np.random.Generator:
    """The stream of these numbers, at its beginning.

    Philox has a key of two 64-bit words, here (seed, purpose and stage), and a counter of four, of which the upper
    two are (step, epoch): each stream has 2^128 draws of its own before it could meet the next.
    """
    key = np.array([seed, (purpose << 32) | stage], dtype=np.uint64)
    counter = np.array([0, 0, step, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def stream_seed(seed: int, purpose: Purpose, stage: int = 0, epoch: int = 0, step: int = 0) -> int:
    """A 63-bit seed from the stream of these numbers, for generators that only take a seed (torch)."""
    return int(stream(seed, purpose, stage, epoch, step).integers(2**63))
