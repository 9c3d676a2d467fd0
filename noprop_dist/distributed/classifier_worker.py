"""The actor that trains the classifier on z_T; it needs no images."""

from noprop_dist.distributed.stage_worker import StageWorker
from noprop_dist.training.device import start_computing
from noprop_dist.training.setup import RunSetup


class ClassifierWorker(StageWorker):
    """The classifier, and (once embeddings are learned) the owner of W_embed.

    Args:
        setup: of the run.
    """

    def __init__(self, setup: RunSetup) -> None:
        engine = setup.config.engine
        device = start_computing(engine.device, engine.threads_per_worker)
        super().__init__(device, engine.threads_per_worker, lambda _: setup.classifier_trainer(device))
