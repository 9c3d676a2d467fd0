"""A trained run: its network, its accuracy, its answers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from noprop_dist.api.handed_over import handed_over_again
from noprop_dist.api.watcher import silent
from noprop_dist.baseline.network import assemble_end_to_end
from noprop_dist.config.effect import without_effect
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.image_file import image_kind, lost_of, read_image
from noprop_dist.data.load import load_again
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.files import local_path
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.evaluation import (
    BlockEvaluation,
    Evaluation,
    ObjectiveTerms,
    evaluate_blocks,
    evaluate_terms,
)
from noprop_dist.inference.evaluation import evaluate as evaluate_network
from noprop_dist.inference.export import Exported, export_classifier
from noprop_dist.inference.load import TrainedRun, assemble_network, classifier_of, load_snapshots
from noprop_dist.inference.network import Prediction, Sampler, predict_image
from noprop_dist.models.custom import NetworkFactory
from noprop_dist.plan import RunPlan
from noprop_dist.stages import NETWORK
from noprop_dist.storage.identity import other_sources
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.trust import check_networks, own_networks
from noprop_dist.training.device import choose_device


def open_run(
    run_dir: str,
    device: str = "auto",
    *,
    checkpoint: str | int = "last",
    network: NetworkFactory | None = None,
    trust_code: bool = False,
) -> TrainedRun:
    """Load the network of one of a run's checkpoints.

    Args:
        run_dir: that holds the run.
        device: "cpu", "cuda", or "auto": a GPU if there is one, else all cores.
        checkpoint: "last" undamaged one, "best" by its validation accuracy, or the one of a step.
        network: builds the blocks of a run whose network was handed over in Python.
        trust_code: import networks that the run names by import path, though no `train` on this machine named them.

    Raises:
        UserError: there is no checkpoint, or a block is missing (the run trained `blocks.only` some); or a network
            is neither known nor trusted, or lies in the run directory.
    """
    directory = RunDirectory(run_dir)
    config = directory.config()
    given = handed_over_again(config, None, network)
    run_plan = RunPlan(config, directory.facts(), given_network=given.network)
    check_networks(run_plan.config, directory, trust_code)
    torch.set_num_threads(os.cpu_count() or 1)
    snapshots, warnings = load_snapshots(directory, checkpoint)
    chosen = choose_device(device)
    if run_plan.end_to_end:
        assembled = assemble_end_to_end(run_plan, snapshots[NETWORK], chosen)
    else:
        assembled = assemble_network(run_plan, snapshots, chosen)
    step = next(iter(snapshots.values())).step
    told = [*warnings]
    for entry in directory.checkpoints.manifest(step).stages:
        told += other_sources(str(directory), entry.trained_with, run_plan.sources(entry.stage))
    return TrainedRun(directory, run_plan, assembled, step, tuple(dict.fromkeys(told)))


def load(
    run_dir: str,
    checkpoint: str | int = "last",
    *,
    network: NetworkFactory | None = None,
    sampler: Sampler = "mean",
    passes: int = 1,
    seed: int | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> NoPropClassifier:
    """Load one of a run's checkpoints as a torch module.

    Args:
        run_dir: that holds the run.
        checkpoint: see `open_run`.
        network: see `open_run`.
        sampler: `mean` (no noise on the way) or `stochastic` (Eq. 3).
        passes: of the reverse process, averaged.
        seed: of z_0 and ε; by default the run's.
        device: see `open_run`.
        trust_code: see `open_run`.

    Raises:
        UserError: as of `open_run`, or sampler, passes or seed are not allowed.
    """
    run = open_run(run_dir, device, checkpoint=checkpoint, network=network, trust_code=trust_code)
    return classifier_of(run, sampler, passes, seed)


def export(
    run_dir: str,
    format: str,  # noqa: A002
    out: str | Path,
    checkpoint: str | int = "last",
    *,
    network: NetworkFactory | None = None,
    sampler: Sampler = "mean",
    passes: int = 1,
    seed: int | None = None,
    noise: str = "stored",
    trust_code: bool = False,
) -> Exported:
    """Write one of a run's checkpoints as one file or folder for other programs.

    Args:
        run_dir: that holds the run.
        format: `torch-export`, `onnx` or `safetensors`; see `inference.export`.
        out: a new file, or a new folder for safetensors.
        checkpoint: see `open_run`.
        network: see `open_run`.
        sampler: see `load`.
        passes: see `load`.
        seed: see `load`.
        noise: `stored` in it, or an `input` of the graph.
        trust_code: see `open_run`.

    Raises:
        UserError: as of `load` and `inference.export.export_classifier`.
        OSError: `out` cannot be written.
    """
    run = open_run(run_dir, "cpu", checkpoint=checkpoint, network=network, trust_code=trust_code)
    exported = export_classifier(classifier_of(run, sampler, passes, seed), format, out, noise)
    return replace(exported, warnings=run.warnings)


@dataclass(frozen=True)
class RunEvaluation:
    """Figures of a trained run on its test set.

    Attributes:
        accuracy: of the whole network.
        terms: of Eq. 8; None for the baseline, which has no such objective.
        per_block: each block along the chain and alone; empty unless `per_block` was given.
        step: of the checkpoint that was measured.
        notes: of what was asked for and does nothing.
    """

    accuracy: Evaluation
    terms: ObjectiveTerms | None
    per_block: tuple[BlockEvaluation, ...]
    step: int
    notes: tuple[str, ...] = ()


def evaluate(
    run: TrainedRun,
    sampler: Sampler = "mean",
    passes: int = 1,
    *,
    terms: bool = True,
    per_block: bool = False,
    data_root: str | None = None,
) -> RunEvaluation:
    """Measure a trained run on its whole test set.

    Args:
        run: from `open_run`.
        sampler: `stochastic` (Eq. 3) or `mean` (no noise on the way).
        passes: of the reverse process, averaged.
        terms: whether to measure the terms of Eq. 8, too.
        per_block: whether to measure each block, too.
        data_root: where the data lies now, if it has moved.

    Raises:
        UserError: the data set cannot be read, or is not the one that the run was trained on.
    """
    config = run.plan.config
    test = load_again(config.data, run.plan.facts, str(run.directory), data_root).held_out.test
    with tells_failing_networks(run):
        accuracy = evaluate_network(run.network, test, sampler, passes)
        with_terms = terms and not run.plan.end_to_end
        measured = evaluate_terms(run.network, test, config.objective.eta) if with_terms else None
        parts = tuple(evaluate_blocks(run.network, test, sampler)) if per_block else ()
    return RunEvaluation(accuracy, measured, parts, run.step, idle_root(config, data_root))


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


def idle_root(config: RunConfig, data_root: str | None) -> tuple[str, ...]:
    return () if data_root is None else tuple(without_effect(config, {"data": {"root": data_root}}))


def predict(
    run: TrainedRun,
    images: Sequence[Path],
    sampler: Sampler = "mean",
    passes: int = 1,
    *,
    warn: Callable[[str], None] = silent,
) -> list[Prediction]:
    """Classify image files, each by itself.

    Args:
        run: from `open_run`, trained on images.
        images: files in any format that Pillow reads; resized to what the network takes.
        sampler: `stochastic` or `mean`.
        passes: of the reverse process, averaged.
        warn: told what of a picture is not looked at.

    Raises:
        UserError: the run was not trained on images, or a file is no image.
    """
    shape, dtype = run.plan.facts.input_shape, run.plan.facts.dtype
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"{run.directory}: was trained on samples of shape {shape}, not on images (grey or RGB)")
    if dtype != "uint8":
        raise UserError(
            f"{run.directory}: was trained on {dtype} pixels, and nothing tells which of their values is a picture "
            "file's white; predict takes networks that were trained on uint8 images"
        )
    pixels = [read_image(local_path(file), channels=shape[0], size=(shape[1], shape[2])) for file in images]
    for file in images:
        for loss in lost_of(image_kind(local_path(file)), channels=shape[0]):
            warn(f"{file}: {loss}")
    with tells_failing_networks(run):
        return [predict_image(run.network, image, sampler, passes) for image in pixels]
