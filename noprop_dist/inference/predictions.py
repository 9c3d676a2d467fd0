"""What a trained network says of samples without labels, batch by batch, and the file that it is written to."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from noprop_dist.data.samples import Samples
from noprop_dist.data.unlabelled import FewLines, Unlabelled
from noprop_dist.errors import UserError
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.inference.predictions_file import PredictionsFile
from noprop_dist.inference.side_by_side import side_by_side

Reading = tuple[range, Future[tuple[NDArray[Any], Mapping[int, UserError]]]]
"""Numbers of samples, and what will be read of them."""
BATCH = 128
"""Samples at a time. Activations of this many MNIST images are blocks that glibc keeps for the next batch."""


@dataclass(frozen=True)
class Answers:
    """What the network says of consecutive samples.

    Attributes:
        rows: numbers of the samples.
        probabilities: of the m classes, (n, m) float32; −1 for what could not be read.
        unreadable: why, by place in this batch.
    """

    rows: range
    probabilities: NDArray[np.float32]
    unreadable: Mapping[int, UserError]


@dataclass(frozen=True)
class Written:
    """A file of predictions.

    Attributes:
        samples: that were to be classified.
        left_out: of these, because they could not be read.
    """

    samples: int
    left_out: int


def answers(
    network: NoPropNetwork, source: Unlabelled, sampler: Sampler, passes: int, *, batch: int, first: int = 0
) -> Iterator[Answers]:
    """Classify samples in their order. The next batch is read while others are computed.

    All samples of a pass have the same z_0 and ε, those of `predict_image`. So an answer depends on the sample alone,
    up to the last bit of a float32, which another batch or place may round otherwise.

    Args:
        network: that classifies them.
        source: of the samples.
        sampler: `stochastic` or `mean`.
        passes: of the reverse process, averaged.
        batch: samples at a time.
        first: sample to begin with.
    """
    parts = [range(row, min(row + batch, len(source))) for row in range(first, len(source), batch)]

    def answer(begun: Reading) -> Answers:
        rows, reading = begun
        stored, unreadable = reading.result()
        probabilities = _probabilities(network, stored, sampler, passes)
        probabilities[list(unreadable)] = -1
        return Answers(rows, probabilities, unreadable)

    at_once = network.batches_at_once
    if batch > 1:  # a sample by itself is faster on one thread of torch than on several, which wait for each other
        at_once = min(at_once, len(parts))
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        yield from side_by_side(answer, _begun(reader, source, parts), at_once)


def _begun(reader: Executor, source: Unlabelled, parts: Iterable[range]) -> Iterator[Reading]:
    """Readings of some rows; each is handed on once the next one is begun."""
    begun = deque[Reading]()
    for rows in parts:
        begun.append((rows, reader.submit(source.read, rows)))
        if len(begun) > 1:
            yield begun.popleft()
    yield from begun


def write_predictions(
    network: NoPropNetwork,
    source: Unlabelled,
    file: PredictionsFile,
    sampler: Sampler,
    passes: int,
    told: FewLines,
    on_progress: Callable[[int, int], None],
) -> Written:
    """Classify samples into a file. Where an earlier process was interrupted, go on from there.

    Args:
        network: that classifies them.
        source: of the samples.
        file: that is written; it appears once it is whole.
        sampler: `stochastic` or `mean`.
        passes: of the reverse process, averaged.
        told: why a sample is left out.
        on_progress: told (samples done, samples in all).

    Raises:
        UserError: the file is there and is another's, or what is there of it is of other samples or another network.
    """
    if not file.is_complete(told.say):
        with file.journal(BATCH, len(source), told.say) as journal:
            on_progress(journal.rows, len(source))
            for each in answers(network, source, sampler, passes, batch=BATCH, first=journal.rows):
                for error in each.unreadable.values():
                    told.of_image(str(error), "cannot be read")
                journal.append(each.probabilities)
                on_progress(journal.rows, len(source))
            file.write(journal, source.name)
    return Written(len(source), file.left_out())


@torch.inference_mode()
def _probabilities(network: NoPropNetwork, stored: NDArray[Any], sampler: Sampler, passes: int) -> NDArray[np.float32]:
    x = Samples(stored, network.facts, network.device).batch(np.arange(len(stored)))
    decided: NDArray[np.float32] = network.decide(x, sampler, passes, batch=None).probabilities.float().cpu().numpy()
    return decided
