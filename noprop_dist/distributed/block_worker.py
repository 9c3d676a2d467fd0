"""The actor that trains blocks: a thin shell around their trainers."""

from noprop_dist.data.dataset import Labels
from noprop_dist.data.inputs import Inputs, MappedInputs
from noprop_dist.data.read_ahead import ReadAhead
from noprop_dist.data.samples import Samples
from noprop_dist.distributed.stage_worker import StageWorker
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.device import start_computing
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
        device = start_computing(setup.config.engine.device, setup.config.engine.threads_per_worker)
        augmentation = setup.augmentation()
        slow = isinstance(inputs, MappedInputs) or augmentation is not None
        self._samples = samples = (ReadAhead if slow else Samples)(inputs, setup.facts, device, augmentation)
        self._group = group
        stream = setup.batch_stream(labels)
        super().__init__(setup, stream, device, lambda block: setup.block_trainer(block, samples, device, group))

    def begin(self, work: Round) -> Round:
        """Take this worker's share of a round, and read its images ahead where reading them takes long."""
        share = self._group.share(work)
        if isinstance(self._samples, ReadAhead):
            self._samples.expect(share.indices, share.epochs)
        return share
