"""The actor that trains blocks: a thin shell around their trainers."""

from noprop_dist.data.dataset import Labels
from noprop_dist.data.inputs import Inputs
from noprop_dist.distributed.stage_worker import StageWorker
from noprop_dist.training.device import start_computing
from noprop_dist.training.setup import RunSetup


class BlockWorker(StageWorker):
    """One or several blocks on one device.

    Args:
        setup: of the run.
        inputs: of the training split, mapped from the object store.
        labels: of the same samples.
    """

    def __init__(self, setup: RunSetup, inputs: Inputs, labels: Labels) -> None:
        device = start_computing(setup.config.engine.device, setup.config.engine.threads_per_worker)
        samples = setup.training_samples(inputs, device)
        stream = setup.batch_stream(labels)
        super().__init__(setup, stream, device, lambda block: setup.block_trainer(block, samples, device))
