"""The actor that trains blocks: a thin shell around their trainers."""

from noprop_dist.data.dataset import Inputs
from noprop_dist.distributed.stage_worker import StageWorker
from noprop_dist.training.device import start_computing
from noprop_dist.training.setup import RunSetup


class BlockWorker(StageWorker):
    """One or several blocks on one device.

    Args:
        setup: of the run.
        inputs: of the training split, mapped from the object store.
    """

    def __init__(self, setup: RunSetup, inputs: Inputs) -> None:
        device = start_computing(setup.config.engine.device, setup.config.engine.threads_per_worker)
        samples = setup.training_samples(inputs, device)
        super().__init__(setup, device, lambda block: setup.block_trainer(block, samples, device))
