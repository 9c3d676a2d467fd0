"""The actor that trains the classifier on z_T, and owns W_embed where that is learned; it needs no images."""

from noprop_dist.data.dataset import Labels
from noprop_dist.engines.ray.workers import StageWorker
from noprop_dist.training.embedding import EmbeddingTrainer, EmbeddingUpdate, EmbeddingVersion
from noprop_dist.training.messages import StageFailure
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import ClassifierTrainer


class ClassifierWorker(StageWorker):
    """Two stages at most: T + 1 and T + 2.

    Args:
        setup: of the run.
        labels: of the training split.
    """

    def __init__(self, setup: RunSetup, labels: Labels) -> None:
        device = setup.start_computing()

        def build(stage: int) -> ClassifierTrainer | EmbeddingTrainer:
            is_owner = stage == setup.embedding_stage
            return setup.embedding_trainer() if is_owner else setup.classifier_trainer(device)

        super().__init__(setup, setup.batch_stream(labels), device, build)

    def update(self, update: EmbeddingUpdate) -> tuple[EmbeddingVersion, RoundReport] | StageFailure | None:
        """Make the next version of W_embed; see `EmbeddingTrainer.apply`."""
        stage = self._setup.embedding_stage
        assert stage is not None
        return self._attempt(stage, update.first_step, lambda trainer: trainer.apply(update))
