"""A trained run: its network, its accuracy, its answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator

from noprop_dist.api.handed_over import handed_over_again, is_own_class
from noprop_dist.api.result import Checkpoint, NamedRun, run_directory
from noprop_dist.api.watcher import as_warning
from noprop_dist.baseline.network import assemble_end_to_end
from noprop_dist.config.arguments import Seed, checked
from noprop_dist.config.effect import without_effect
from noprop_dist.config.schema import RunConfig
from noprop_dist.config.sections.base import Positive
from noprop_dist.data.dataset import Split
from noprop_dist.data.load import check_same_data, load_again
from noprop_dist.data.unlabelled import FewLines, find_samples
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.files import local_path
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.evaluation import (
    BlockEvaluation,
    Evaluation,
    ObjectiveTerms,
    Passes,
    measure,
)
from noprop_dist.inference.export import Exported, export_classifier
from noprop_dist.inference.load import (
    TrainedRun,
    assemble_network,
    changed_networks,
    classifier_of,
    load_snapshots,
    with_steps,
)
from noprop_dist.inference.network import Prediction, Sampler
from noprop_dist.inference.predictions import Written, answers, write_predictions
from noprop_dist.inference.predictions_file import PredictionsFile
from noprop_dist.models.custom import NetworkFactory
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import NETWORK
from noprop_dist.storage.snapshot import explaining_misfits
from noprop_dist.storage.trust import check_networks, own_networks
from noprop_dist.torch_device import choose_device
from noprop_dist.torch_state import ALL_CORES, as_in_a_new_process
from noprop_dist.training.device import keep_freed_memory


def _files(images: Any) -> Any:
    some = (images, *images[:1]) if isinstance(images, list | tuple) else (images,)
    if any(hasattr(each, "shape") for each in some):
        raise ValueError("files are needed; load(run).predict(images) takes arrays and tensors")
    return images


def _run(run: Any) -> Any:
    if isinstance(run, torch.nn.Module):
        raise ValueError("a run is needed; a network that is loaded classifies arrays itself: model.predict(images)")
    return run


OpenableRun = Annotated[NamedRun | Checkpoint | TrainedRun, BeforeValidator(_run)]
"""A run, one of its checkpoints, or what `open_run` has made of it."""
ImageFiles = Annotated[str | Path | Sequence[str | Path], BeforeValidator(_files)]
"""Files and folders; not what was read of them."""


@checked
@as_in_a_new_process(threads=1)  # more are slower to copy the few megabytes of a block
def open_run(
    run: OpenableRun,
    device: str | torch.device = "auto",
    *,
    checkpoint: str | int = "last",
    steps_per_block: Positive | None = None,
    network: NetworkFactory | None = None,
    trust_code: bool = False,
) -> TrainedRun:
    """Load the network of one of a run's checkpoints.

    Args:
        run: a run directory (a path or a URI), a `Result`, or one `Checkpoint` of it.
        device: "cpu", "cuda", "cuda:1" …, or "auto": a GPU if there is one, else the CPU.
        checkpoint: "last" undamaged one, "best" by `checkpoint.score` or else by validation accuracy, or the one of a
            step.
        steps_per_block: steps that each block takes through its range of noise levels; by default the run's.
        network: what was handed over to `train`, if it was; or the class that the run names, which is trusted then.
        trust_code: import networks that the run names by import path, though no `train` on this machine named them.

    Raises:
        UserError: there is no such checkpoint, or a block is missing (the run trained `blocks.only` some); the blocks
            cannot take so many steps; or a network is neither known nor trusted, or lies in the run directory.
    """
    if isinstance(run, TrainedRun | Checkpoint) and checkpoint not in ("last", run.step):
        raise UserError(f"checkpoint {checkpoint}: the run is given as its checkpoint of step {run.step} already")
    if isinstance(run, TrainedRun) and network is not None:
        raise UserError("network: has no part in it where the run is open already; leave it out, or name the run")
    if isinstance(run, TrainedRun):
        return with_steps(run, steps_per_block)
    checkpoint = run.step if isinstance(run, Checkpoint) else checkpoint
    directory = run_directory(run)
    config = directory.config()
    given = handed_over_again(config, None, network)
    run_plan = RunPlan(config, directory.facts(), given_network=given.network)
    check_networks(config, directory, trust_code or is_own_class(config, network))
    chosen = choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory(of_any_size=True)
    snapshots, warnings = load_snapshots(directory, checkpoint)
    step = next(iter(snapshots.values())).step
    told = (*warnings, *changed_networks(directory, run_plan, step))
    with explaining_misfits(told):
        if run_plan.end_to_end:
            assembled = assemble_end_to_end(run_plan, snapshots[NETWORK], chosen)
        else:
            assembled = assemble_network(run_plan, snapshots, chosen)
    return with_steps(TrainedRun(directory, run_plan, assembled, step, told), steps_per_block)


@checked
def load(
    run: NamedRun | Checkpoint,
    checkpoint: str | int = "last",
    *,
    network: NetworkFactory | None = None,
    sampler: Sampler = "mean",
    passes: Positive = 1,
    seed: Seed | None = None,
    steps_per_block: Positive | None = None,
    device: str | torch.device = "auto",
    trust_code: bool = False,
    warn: Callable[[str], None] = as_warning,
) -> NoPropClassifier:
    """Load one of a run's checkpoints as a torch module.

    Args:
        run: a run directory (a path or a URI), a `Result`, or one `Checkpoint` of it.
        checkpoint: "last" undamaged one, "best" by `checkpoint.score` or else by validation accuracy, or the one of a
            step.
        network: what was handed over to `train`, if it was; or the class that the run names, which is trusted then.
        sampler: `mean` (no noise on the way) or `stochastic` (Eq. 3).
        passes: of the reverse process, averaged.
        seed: of z_0 and ε; by default the run's.
        steps_per_block: steps that each block takes through its range of noise levels; by default the run's.
        device: "cpu", "cuda", "cuda:1" …, or "auto": a GPU if there is one, else the CPU.
        trust_code: import networks that the run names by import path, though no `train` on this machine named them.
        warn: told of damaged checkpoints that are passed over and of changed networks; by default `warnings.warn`.

    Raises:
        UserError: there is no such checkpoint, or a block is missing (the run trained `blocks.only` some); a network is
            neither known nor trusted, or lies in the run directory; or sampler, passes or seed are not allowed.
    """
    opened = open_run(
        run, device, checkpoint=checkpoint, steps_per_block=steps_per_block, network=network, trust_code=trust_code
    )
    for line in opened.warnings:
        warn(line)
    return classifier_of(opened, sampler, passes, seed)


@checked
@as_in_a_new_process(ALL_CORES)
def export(
    run: NamedRun | Checkpoint,
    format: str,  # noqa: A002
    out: str | Path,
    checkpoint: str | int = "last",
    *,
    network: NetworkFactory | None = None,
    sampler: Sampler = "mean",
    passes: Positive = 1,
    seed: Seed | None = None,
    steps_per_block: Positive | None = None,
    noise: str = "stored",
    trust_code: bool = False,
) -> Exported:
    """Write one of a run's checkpoints as one file or folder for other programs.

    Args:
        run: see `load`.
        format: `torch-export`, `onnx` or `safetensors`; see `inference.export`.
        out: a new file, or a new folder for safetensors.
        checkpoint: see `load`.
        network: see `load`.
        sampler: see `load`.
        passes: see `load`.
        seed: see `load`.
        steps_per_block: see `load`.
        noise: `stored` in it, or an `input` of the graph.
        trust_code: see `load`.

    Raises:
        UserError: as of `load` and `inference.export.export_classifier`.
        OSError: `out` cannot be written.
    """
    opened = open_run(
        run, "cpu", checkpoint=checkpoint, steps_per_block=steps_per_block, network=network, trust_code=trust_code
    )
    exported = export_classifier(classifier_of(opened, sampler, passes, seed), format, out, noise)
    return replace(exported, warnings=opened.warnings)


@dataclass(frozen=True)
class RunEvaluation:
    """Figures of a trained run on its test set.

    Attributes:
        accuracy: of the whole network.
        terms: of Eq. 8; None for the baseline, which has no such objective.
        per_block: each block along the chain and alone; empty unless `per_block` was given.
        step: of the checkpoint that was measured.
        steps_per_block: k, steps that each block took through its range of noise levels.
        notes: of damaged checkpoints and changed networks, and of what was asked for and does nothing.
    """

    accuracy: Evaluation
    terms: ObjectiveTerms | None
    per_block: tuple[BlockEvaluation, ...]
    step: int
    steps_per_block: int
    notes: tuple[str, ...] = ()


@checked
@as_in_a_new_process(ALL_CORES)
def evaluate(
    run: OpenableRun,
    sampler: Sampler = "mean",
    passes: Positive = 1,
    *,
    checkpoint: str | int = "last",
    terms: bool = True,
    per_block: bool = False,
    steps_per_block: Positive | None = None,
    data_root: str | Path | None = None,
    data: Any = None,
    network: NetworkFactory | None = None,
    trust_code: bool = False,
) -> RunEvaluation:
    """Measure one of a run's checkpoints on the whole test set.

    Args:
        run: a run directory (a path or a URI), a `Result`, or one `Checkpoint` of it.
        sampler: `stochastic` (Eq. 3) or `mean` (no noise on the way).
        passes: of the reverse process, averaged.
        checkpoint: see `load`.
        terms: whether to measure the terms of Eq. 8, too.
        per_block: whether to measure each block, too.
        steps_per_block: see `load`.
        data_root: where the data lies now, if it has moved.
        data: what was handed over to `train`, if it was.
        network: likewise.
        trust_code: see `load`.

    Raises:
        UserError: as of `load`; or the data set cannot be read, or is not the one that the run was trained on.
    """
    opened = open_run(
        run, checkpoint=checkpoint, steps_per_block=steps_per_block, network=network, trust_code=trust_code
    )
    config = opened.plan.config
    test = held_out_test(opened, data_root, data)
    with tells_failing_networks(opened):
        eta = config.objective.eta if terms and not opened.plan.end_to_end else None
        parts = sampler if per_block else None
        measured = measure(opened.network, test, [Passes(sampler, passes)], eta=eta, blocks=parts)
    (accuracy,), notes = measured.accuracies, (*opened.warnings, *idle_root(config, data_root))
    return RunEvaluation(
        accuracy, measured.terms, measured.per_block, opened.step, opened.network.steps_per_block, notes
    )


def held_out_test(run: TrainedRun, data_root: str | Path | None, data: Any) -> Split:
    config, facts, where = run.plan.config, run.plan.facts, str(run.directory)
    given = handed_over_again(config, data, None).data
    if given is None:
        return load_again(config.data, facts, where, None if data_root is None else str(data_root)).held_out.test
    loaded = given.load(config.data)
    check_same_data(facts, loaded.facts, where, config.data)
    return loaded.held_out.test


@contextmanager
def tells_failing_networks(run: TrainedRun) -> Iterator[None]:
    """Tell in one sentence that a network of the user's own fails. Where ours do, the traceback says more.

    Raises:
        UserError: as described.
    """
    try:
        yield
    except (UserError, TrainingError):
        raise
    except (Exception, SystemExit) as error:
        named = ", ".join(network.path for network in own_networks(run.plan.config))
        if not named:
            raise
        raise UserError(f"{run.directory}: its network {named} fails: {type(error).__name__}: {error}") from error


def idle_root(config: RunConfig, data_root: str | Path | None) -> tuple[str, ...]:
    return () if data_root is None else tuple(without_effect(config, {"data": {"root": data_root}}))


@checked
@as_in_a_new_process(ALL_CORES)
def predict(
    run: OpenableRun,
    images: ImageFiles,
    sampler: Sampler = "mean",
    passes: Positive = 1,
    *,
    checkpoint: str | int = "last",
    steps_per_block: Positive | None = None,
    network: NetworkFactory | None = None,
    trust_code: bool = False,
    warn: Callable[[str], None] = as_warning,
    on_unreadable: Callable[[UserError], None] | None = None,
) -> list[Prediction]:
    """Classify samples, each by itself.

    Args:
        run: as of `evaluate`.
        images: image files in any format that Pillow reads, resized to what the network takes, and folders of them; or
            one .npz file or packed data set, see `find_samples`.
        sampler: `stochastic` or `mean`.
        passes: of the reverse process, averaged.
        checkpoint: see `load`.
        steps_per_block: see `load`.
        network: see `load`.
        trust_code: see `load`.
        warn: told what is left out, or not looked at, and of damaged checkpoints and changed networks; by default
            `warnings.warn`.
        on_unreadable: told why a file is no image; it is left out then. None refuses it.

    Raises:
        UserError: as of `load`; or the run was trained on other samples, or a file is no image.
    """
    opened = open_run(
        run, checkpoint=checkpoint, steps_per_block=steps_per_block, network=network, trust_code=trust_code
    )
    told, found = _tells(opened, warn), list[Prediction]()
    source = find_samples(_places(images), opened.plan.facts, str(opened.directory), told)
    with tells_failing_networks(opened):
        for each in answers(opened.network, source, sampler, passes, batch=1):
            for error in each.unreadable.values():
                if on_unreadable is None:
                    raise error
                on_unreadable(error)
            if not each.unreadable:
                found.append(Prediction.of(each.probabilities[0], opened.network, source.name(each.rows.start)))
    told.end()
    return found


@checked
@as_in_a_new_process(ALL_CORES)
def predict_into(
    run: OpenableRun,
    images: ImageFiles,
    out: str | Path,
    sampler: Sampler = "mean",
    passes: Positive = 1,
    *,
    checkpoint: str | int = "last",
    steps_per_block: Positive | None = None,
    network: NetworkFactory | None = None,
    trust_code: bool = False,
    warn: Callable[[str], None] = as_warning,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Written:
    """Classify samples, many at a time, into a CSV or Parquet file of classes and all probabilities.

    Images that cannot be read are told and left out. Where an earlier call was interrupted, it goes on from there.

    Args:
        run: as of `predict`.
        images: likewise.
        out: ends in .csv or .parquet; appears once it is whole.
        sampler: as of `predict`.
        passes: likewise.
        checkpoint: likewise.
        steps_per_block: likewise.
        network: likewise.
        trust_code: likewise.
        warn: likewise.
        on_progress: told (samples done, samples in all).

    Raises:
        UserError: as of `predict`, or `out` cannot be written or holds other predictions.
    """
    opened = open_run(
        run, checkpoint=checkpoint, steps_per_block=steps_per_block, network=network, trust_code=trust_code
    )
    told = _tells(opened, warn)
    source = find_samples(_places(images), opened.plan.facts, str(opened.directory), told)
    of = {"network": opened.fingerprint(), "step": opened.step, "sampler": sampler, "number of passes": passes}
    of |= {"steps per block": opened.network.steps_per_block} if opened.plan.takes_level else {}
    of |= {"number of images": len(source), "fingerprint of the images": source.identity()}
    file = PredictionsFile(out, of, opened.plan.facts.class_names)
    with tells_failing_networks(opened):
        written = write_predictions(opened.network, source, file, sampler, passes, told, on_progress)
    told.end()
    return written


def _places(images: str | Path | Sequence[str | Path]) -> list[Path]:
    return [local_path(each) for each in ([images] if isinstance(images, str | Path) else images)]


def _tells(run: TrainedRun, warn: Callable[[str], None]) -> FewLines:
    for line in run.warnings:
        warn(line)
    return FewLines(warn)
