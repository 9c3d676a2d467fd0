"""The actor that trains the classifier on z_T; it needs no images."""

from noprop_dist.distributed.block_worker import train_or_fail, worker_facts
from noprop_dist.distributed.messages import StageFailure, WorkerFacts
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.device import start_computing
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.setup import RunSetup


class ClassifierWorker:
    """The classifier, and (once embeddings are learned) the owner of W_embed.

    Args:
        setup: of the run.
    """

    def __init__(self, setup: RunSetup) -> None:
        engine = setup.config.engine
        self._device = start_computing(engine.device, engine.threads_per_worker)
        self._trainer = setup.classifier_trainer(self._device)

    def facts(self) -> WorkerFacts:
        """Where this worker is; its first reply says that it is ready."""
        return worker_facts(self._device)

    def train(self, work: Round) -> RoundReport | StageFailure:
        """Do all steps of a round."""
        return train_or_fail(self._trainer, work)

    def snapshot(self, stage: int) -> Snapshot:  # noqa: ARG002 - called like a BlockWorker's
        """The classifier's state after the rounds that arrived before."""
        return self._trainer.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Bring the classifier to a snapshot."""
        self._trainer.restore(snapshot)
