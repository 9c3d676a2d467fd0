"""What follows from a configuration and the facts of its data by plain counting: stages, sizes and steps."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataFacts
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.models.shapes import Shapes

CLASSIFIER, EMBEDDING = "classifier", "embedding"
"""The stages that are no blocks, in file names and for people."""
NETWORK_STAGE, NETWORK = 1, "network"
"""The only stage of a network that is trained end to end."""
RECORDABLE = ("paper", "small-conv", "mlp")
"""Networks that never look at a value on the host; of others only their author knows."""
ROUND_STEPS, SNAPSHOT_EVERY_STEPS = {False: 16, True: 256}, {False: 64, True: 2048}
"""By whether blocks are on GPUs. There a step may take a tenth of a millisecond, and the same cadence in steps would
cost more than the steps: between two rounds lies about a millisecond, and a snapshot is a copy of 24 MB."""
LEARNED_DIM = 20
"""d of a learned W_embed where nothing is said of it, as in the paper."""


@dataclass(frozen=True)
class RunPlan:
    """A run's configuration together with the facts of its data.

    Attributes:
        config: of the run.
        facts: of its data set.
        on_gpu: whether blocks are trained on GPUs; changes how often one hears of them, and no result.
    """

    config: RunConfig
    facts: DataFacts
    on_gpu: bool = field(default=False, kw_only=True)

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of T blocks."""
        return self.config.noise_schedule()

    @property
    def embedding_dim(self) -> int:
        """d."""
        settings = self.config.embedding
        match settings.kind:
            case "onehot":
                return self.facts.classes
            case "learned":
                return settings.dim or LEARNED_DIM
            case "prototype":
                return prod(self.facts.input_shape)

    @property
    def shapes(self) -> Shapes:
        """The sizes that a block's network has to fit."""
        return Shapes(self.facts.input_shape, self.facts.classes, self.embedding_dim)

    @property
    def input_alpha_bar(self) -> tuple[float, ...]:
        """Noise levels of the inputs of stages 1, 2, …; the baseline begins at noise alone (Eq. 17)."""
        return (0.0,) if self.end_to_end else self.schedule.alpha_bar

    @property
    def classifier_stage(self) -> int:
        """T + 1: the classifier comes after the last block."""
        return self.config.blocks.count + 1

    @property
    def embedding_stage(self) -> int | None:
        """T + 2, where the stages share a W_embed that moves."""
        return self.config.blocks.count + 2 if self.config.shares_embedding else None

    @property
    def end_to_end(self) -> bool:
        """Whether the network is the back-propagation baseline, one stage as a whole."""
        return self.config.method == "backprop"

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that are trained: blocks, then the classifier, then W_embed where it is learned."""
        if self.end_to_end:
            return (NETWORK_STAGE,)
        learned = () if self.embedding_stage is None else (self.embedding_stage,)
        return (*self.config.blocks.trained(), self.classifier_stage, *learned)

    def stage_name(self, stage: int) -> str:
        """What a person calls a stage: 'block 3', 'classifier', 'embedding' or 'network'."""
        if self.end_to_end:
            return NETWORK
        others = {self.classifier_stage: CLASSIFIER, self.embedding_stage: EMBEDDING}
        return others.get(stage, f"block {stage}")

    def file_names(self) -> dict[int, str]:
        """What the files of each stage are called: block-03, classifier, embedding; or network."""
        if self.end_to_end:
            return {NETWORK_STAGE: NETWORK}
        width = max(2, len(str(self.config.blocks.count)))
        blocks = {block: f"block-{block:0{width}d}" for block in self.config.blocks.trained()}
        return blocks | {stage: self.stage_name(stage) for stage in self.stages if stage not in blocks}

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split."""
        return self.facts.samples["train"] // self.config.training.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of every stage."""
        return self.config.training.steps(self.facts.samples["train"])

    @property
    def evaluates(self) -> bool:
        """Whether checkpoints are evaluated: a chain needs all of its blocks."""
        return self.config.blocks.only is None and self.config.evaluation.samples > 0

    @property
    def round_steps(self) -> int:
        """Most steps that are sent to a block in one message."""
        chosen = self.config.engine.round_steps
        return ROUND_STEPS[self.on_gpu] if chosen == "auto" else chosen

    def records_steps_of(self, stage: int) -> bool:
        """Whether a stage's steps are recorded where it is on a GPU (`engine.cuda_graphs`)."""
        wanted, training = self.config.engine.cuda_graphs, self.config.training
        if wanted != "auto":
            return wanted == "always"
        is_block = stage <= self.config.blocks.count
        known = not is_block or self.config.blocks.network_of(stage).kind in RECORDABLE
        return known and training.replicas_per_block == 1 and training.lr_schedule.kind != "one-cycle"

    @property
    def sync_steps(self) -> int:
        """Steps that a version of W_embed lasts; the whole run where no two stages share one that moves."""
        return self.config.embedding.sync_steps if self.config.shares_embedding else self.total_steps

    @cached_property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps whose snapshots of all stages make a checkpoint; the last is the end of the run.

        Where W_embed is learned, they and those of all snapshots are ends of its versions.
        """
        every = self._whole_versions(self.config.checkpoint.steps_between(self.total_steps, self.steps_per_epoch))
        return (*range(every, self.total_steps, every), self.total_steps)

    @cached_property
    def snapshot_steps(self) -> tuple[int, ...]:
        """The steps at which every stage is snapshotted, rising: those of checkpoints, and some between."""
        chosen = self.config.checkpoint.snapshot_every_steps
        every = self._whole_versions(SNAPSHOT_EVERY_STEPS[self.on_gpu] if chosen == "auto" else chosen)
        return tuple(sorted({*self.checkpoint_steps, *range(every, self.total_steps, every)}))

    def _whole_versions(self, steps: int) -> int:
        """So many steps, rounded up to whole versions of W_embed where that moves."""
        sync = self.config.embedding.sync_steps if self.config.shares_embedding else 1
        return -(-steps // sync) * sync
