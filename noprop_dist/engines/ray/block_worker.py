"""The actor that trains blocks: a thin shell around their trainers."""

from noprop_dist.data.dataset import Labels
from noprop_dist.data.inputs import Inputs, MappedInputs
from noprop_dist.data.read_ahead import ReadAhead
from noprop_dist.data.samples import Samples
from noprop_dist.engines.ray.workers import StageWorker
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.replicas import ALONE, OneReplica
from noprop_dist.training.setup import RunSetup


class BlockWorker(StageWorker):
    """One or several blocks on one device.

    Args:
        setup: of the run.
        inputs: of the training split, mapped from the object store.
        labels: of the same samples.
        group: of replicas, of which this worker is one.
    """

    def __init__(self, setup: RunSetup, inputs: Inputs, labels: Labels, group: OneReplica = ALONE) -> None:
        device = setup.start_computing()
        augmentation = setup.augmentation()
        slow = isinstance(inputs, MappedInputs) or augmentation is not None
        samples = (ReadAhead if slow else Samples)(inputs, setup.facts, device, augmentation)
        self._group = group
        stream = setup.batch_stream(labels)
        super().__init__(setup, stream, device, lambda block: setup.block_trainer(block, samples, device, group))

    def begin(self, work: Round) -> Round:
        """This worker's share of a round."""
        return self._group.share(work)
