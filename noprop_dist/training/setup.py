"""Checks a configuration and its data, and builds what both engines train with: batches, trainers, checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noprop_dist.config.bits import LENGTH, changes_between, setting_at
from noprop_dist.config.extras import check_extras
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.data.given import GivenData
from noprop_dist.data.inputs import Inputs
from noprop_dist.data.load import check_same_data, load_data
from noprop_dist.data.prototypes import prototype_indices
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.embedding import onehot_embedding, random_embedding
from noprop_dist.diffusion.objective import denoising_weight
from noprop_dist.errors import UserError
from noprop_dist.machine import HERE, Machine
from noprop_dist.models.build import check_memory
from noprop_dist.models.check import check_apart, check_network
from noprop_dist.models.custom import NetworkFactory
from noprop_dist.records import News
from noprop_dist.run_plan import Module, RunPlan
from noprop_dist.stages import CLASSIFIER, EMBEDDING, Stage, block
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import BatchStream
from noprop_dist.training.device import start_computing
from noprop_dist.training.embedding import EmbeddingCopy, EmbeddingExchange, EmbeddingTable, EmbeddingTrainer
from noprop_dist.training.execution import execution_on
from noprop_dist.training.fine_tuning import begin_again
from noprop_dist.training.group_batch_norm import normalise_over_group
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.profiling import ProfiledTrainer
from noprop_dist.training.replicas import ALONE, OneReplica
from noprop_dist.training.trainers import BlockTrainer, ClassifierTrainer, StageTrainer


@dataclass(frozen=True)
class RunSetup:
    """What both engines build trainers from; small, and the same for every actor.

    Attributes:
        plan: of the run.
        initial_embedding: W_embed at step 0, (m, d) float32.
    """

    plan: RunPlan
    initial_embedding: NDArray[np.float32]

    @property
    def config(self) -> RunConfig:
        return self.plan.config

    def on(self, on_gpu: bool) -> "RunSetup":
        """The same run, with its blocks on GPUs or not."""
        return replace(self, plan=replace(self.plan, on_gpu=on_gpu))

    def on_its_device(self) -> "RunSetup":
        """The same run for its processes, which compute on the run's kind of device and not on what they see."""
        engine = self.config.engine.model_copy(update={"device": "cuda" if self.plan.on_gpu else "cpu"})
        config = self.config.model_copy(update={"engine": engine})
        return replace(self, plan=replace(self.plan, config=config))

    @property
    def embedding(self) -> Tensor:
        """A copy of W_embed at step 0, (m, d) float32 on the CPU."""
        return torch.from_numpy(self.initial_embedding.copy())

    def start_computing(self) -> torch.device:
        """Make this process ready to train; see `device.start_computing`."""
        engine = self.config.engine
        return start_computing(engine.device, engine.threads_per_worker, self.config.training.precision)

    def checkpoint_writer(self, directory: RunDirectory) -> CheckpointWriter:
        """What turns the stages' snapshots into checkpoints in the run directory."""
        return CheckpointWriter(
            directory.checkpoints,
            self.plan.stages,
            self.config.blocks.count,
            self.plan.checkpoint_steps,
            self.config.checkpoint.num_to_keep,
            directory.changes(),
            together_at=self.plan.snapshot_steps if self.plan.learns_embedding else None,
            begins_with=self.config.training.init_from,
            ends_version=self.plan.ends_version,
            device="cuda" if self.plan.on_gpu else "cpu",
            sources={stage: self.plan.sources(stage) for stage in self.plan.stages},
        )

    def batch_stream(self, labels: NDArray[np.int64]) -> BatchStream:
        """The batches of every stage, from the labels of the training split."""
        config = self.config
        return BatchStream(
            *(config.seed, labels, self.embedding.numpy(), self.plan.input_alpha_bar, config.training.batch_size),
            noise_ranges=self.plan.noise_ranges if self.plan.owns_ranges else {},
        )

    def training_samples(self, inputs: Inputs, device: torch.device) -> Samples:
        """The training split on a device, augmented if the settings say so."""
        return Samples(inputs, self.plan.facts, device, self.plan.augmentation())

    def block_trainer(self, t: int, samples: Samples, device: torch.device, group: OneReplica = ALONE) -> StageTrainer:
        """The trainer of block t (of one replica of it) at step 0, on samples that lie on the same device."""
        trainer, wanted = self._block_trainer(t, samples, device, group), self.config.engine.profile
        if wanted is None or wanted.block != t or group.rank > 0:
            return trainer
        file = f"profile/{block(t).file(self.config.blocks.count)}.json.gz"
        return ProfiledTrainer(trainer, file, wanted.steps, self.plan.total_steps)

    def _block_trainer(self, t: int, samples: Samples, device: torch.device, group: OneReplica) -> BlockTrainer:
        training, stage = self.config.training_of(t), block(t)
        network = self.for_training(self.plan.block_network(t), device)
        network = normalise_over_group(network, group) if group.size > 1 else network
        rate, steps = training.learning_rate, self.plan.total_steps
        optimisation = Optimisation(stage, network, training, rate, steps, average_=group.average_)
        return BlockTrainer(
            network,
            optimisation,
            samples,
            self._embedding_copy(device),
            self.plan.noise_ranges[stage],
            denoising_weight(self.plan.schedule, t, self.config.objective.eta),
            self.config.seed,
            group,
            execution=execution_on(device, self.plan.captures_steps_of(stage)),
            precision=training.precision,
        )

    def classifier_trainer(self, device: torch.device) -> ClassifierTrainer:
        """The trainer of the classifier at step 0."""
        config, classifier = self.config, self.plan.classifier().to(device)
        rate = config.classifier.learning_rate
        optimisation = Optimisation(CLASSIFIER, classifier, config.training, rate, self.plan.total_steps)
        execution = execution_on(device, self.plan.captures_steps_of(CLASSIFIER))
        return ClassifierTrainer(classifier, optimisation, self._embedding_copy(device), self.plan.schedule, execution)

    def embedding_trainer(self) -> EmbeddingTrainer:
        """The trainer of a learned W_embed at step 0."""
        table, rate = EmbeddingTable(self.embedding), self.config.embedding.learning_rate
        versions = -(-self.plan.total_steps // self.plan.sync_steps)
        # Every stage trains against the newest version, so what is kept of it is no average.
        settings = self.config.training.model_copy(update={"ema_decay": None})
        return EmbeddingTrainer(table, Optimisation(EMBEDDING, table, settings, rate, versions))

    def embedding_exchange(self, snapshots: Mapping[Stage, Snapshot]) -> EmbeddingExchange | None:
        """The exchange of versions of W_embed from where the stages stand; None if W_embed is fixed.

        Args:
            snapshots: of all stages at the same step, or none.
        """
        if not self.plan.learns_embedding:
            return None
        snapshot = snapshots.get(EMBEDDING)
        weights = self.embedding.numpy() if snapshot is None else snapshot.weights["weight"]
        first = 0 if snapshot is None else snapshot.step
        return EmbeddingExchange(weights, first, self.plan.sync_steps, self.plan.total_steps, self.config.blocks.count)

    def for_training(self, network: Module, device: torch.device) -> Module:
        """A network on a device, laid out and compiled as the settings say; its weights keep their names."""
        network = self.plan.on_device(network, device)
        if self.config.training.compile:
            network.compile()
        return network

    def _embedding_copy(self, device: torch.device) -> EmbeddingCopy:
        return EmbeddingCopy(self.embedding.to(device), self.config.embedding.is_learned)


@dataclass(frozen=True)
class Given:
    """What a caller hands over in Python, in place of names.

    Attributes:
        data: where `data.name` is `given`.
        network: what builds networks of kind `given`.
    """

    data: GivenData | None = None
    network: NetworkFactory | None = None


NOTHING = Given()


def check(config: RunConfig, given: Given = NOTHING) -> tuple[RunPlan, DataSet]:
    """Load the data and check that configuration, data and networks fit each other.

    Args:
        config: of the run.
        given: what was handed over in Python.

    Returns:
        The plan of the run, and its data.

    Raises:
        UserError: they do not; nothing has been written or started.
    """
    check_extras(config)
    data = load_data(config.data) if given.data is None else given.data.load(config.data)
    plan = RunPlan(config, data.facts, given_network=given.network)
    if plan.steps_per_epoch < 1:
        raise UserError(
            f"training.batch_size={config.training.batch_size} is larger than the training set of "
            f"{len(data.train)} samples"
        )
    plan.augmentation()
    _check_networks(plan)
    return plan, data


def _check_networks(plan: RunPlan) -> None:
    checked: list[object] = []
    built: list[tuple[str, nn.Module]] = []
    for number in plan.config.blocks.trained():
        settings = plan.config.blocks.network_of(number)
        if settings not in checked:
            check_memory(settings, plan.shapes, number)
            network = plan.block_network(number)
            check_network(network, plan.shapes, f"blocks.network of block {number}")
            checked.append(settings)
            if settings.kind in ("custom", "given"):
                again = plan.block_network(number)
                built += (f"block {number}", network), ("the network that is built next", again)
    check_apart(built)


def prepare(config: RunConfig, given: Given = NOTHING) -> tuple[RunSetup, DataSet]:
    """Everything that training needs, checked; see `check`.

    Raises:
        UserError: configuration, data and networks do not fit each other; nothing has been written or started.
    """
    plan, data = check(config, given)
    return run_setup(plan, data), data


def run_setup(plan: RunPlan, data: DataSet) -> RunSetup:
    """The setup of a run on a data set.

    Raises:
        UserError: prototypes are asked for, and a class has no sample.
    """
    return RunSetup(plan, _initial_embedding(plan, data))


def _initial_embedding(plan: RunPlan, data: DataSet) -> NDArray[np.float32]:
    """W_embed at step 0, (m, d); the baseline begins with the same one as NoProp."""
    classes = plan.facts.classes
    match plan.config.embedding.kind:
        case "onehot":
            return onehot_embedding(classes).numpy()
        case "learned":
            return random_embedding(classes, plan.embedding_dim, plan.initial_seed(EMBEDDING)).numpy()
        case "prototype":
            missing = sorted(set(range(classes)) - set(data.train.labels.tolist()))
            if missing:
                raise UserError(f"embedding.kind=prototype: the training set has no sample of class {missing[0]}")
            samples = Samples(data.train.inputs, plan.facts, torch.device("cpu"))
            return samples.batch(prototype_indices(data.train, classes)).flatten(1).numpy()


def go_on(plan: RunPlan, directory: RunDirectory, machine: Machine = HERE) -> None:
    """Check that a run directory holds the run that is to go on, and write down what changes for single stages.

    Args:
        plan: of the run from here on; its data is as it is now.
        directory: of the run; this process is its only writer.
        machine: its clock.

    Raises:
        UserError: samples, settings or snapshots are those of another run; nothing was written.
        OSError: the changes cannot be written.
    """
    check_same_data(directory.facts(), plan.facts, str(directory), plan.config.data)
    directory.checkpoints.check_run()
    directory.check_began()
    told = check_length(plan, directory)
    begin_again(plan, directory, machine)
    changes = changes_between(directory.config(), plan.config)
    if changes:
        saved = directory.checkpoints.saved_steps()
        last = {name: max(filter(plan.ends_version, steps), default=0) for name, steps in saved.items()}
        directory.add_changes(changes, last)
    if told is not None:
        directory.append_metrics([News(text=told, time=machine.time())])


def check_length(plan: RunPlan, directory: RunDirectory) -> str | None:
    """Check that a run can go on to a step that is another than before.

    Args:
        plan: of the run from here on.
        directory: of the run.

    Returns:
        What the other length means for the run; None if it is as long as it was.

    Raises:
        UserError: a stage has done more steps than the run is to have.
    """
    before, length = RunPlan(directory.config(), plan.facts).total_steps, plan.total_steps
    if length == before:
        return None
    done = max((steps[-1] for steps in directory.checkpoints.saved_steps().values()), default=0)
    if done > length:
        key = LENGTH[plan.config.training.max_steps is not None]
        raise UserError(
            f"{key}={setting_at(plan.config, key)}: makes {length} steps, and {directory} has done {done}; "
            "a run ends at or after those"
        )
    schedule = plan.config.training.lr_schedule.kind
    told = f"the run ends at step {length}, no longer at step {before}"
    if schedule not in ("cosine", "one-cycle"):
        return told
    return (
        f"{told}; from here on the learning rates are those of training.lr_schedule.kind={schedule} over {length} "
        "steps, so the weights are not those of a run that was begun with that length"
    )
