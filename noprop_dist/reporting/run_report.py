"""Plots and an HTML page of a run, written into its directory."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from noprop_dist.config.layers import to_yaml
from noprop_dist.data.dataset import HeldOut, Split
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.schedule import log_snr
from noprop_dist.errors import UserError
from noprop_dist.inference.evaluation import evaluate_blocks
from noprop_dist.inference.levels import accuracy_by_steps, level_errors
from noprop_dist.inference.load import TrainedRun
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.inference.score import scores_of
from noprop_dist.printable import without_secrets
from noprop_dist.records import EmbeddingUpdated, Evaluated, ObjectiveMeasured, Record, RoundDone, damage_told
from noprop_dist.reporting import plots
from noprop_dist.reporting.page import html_page
from noprop_dist.reporting.summary import busy_seconds, latest_metrics, of_kind
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.manifest import Manifest
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot

STEPS_PER_BLOCK = 1, 2, 4
PARTS_SAMPLES = 1000
"""Test samples for the accuracy of the parts: a report should take seconds."""

CANNOT_BE_DRAWN = UserError, ValueError, ArithmeticError
"""What is raised over figures that a stranger wrote, or that no axis can hold."""


@dataclass(frozen=True)
class Picture:
    """A picture of a run, which is drawn when it is needed.

    Attributes:
        file: its name in `plots`, without an ending.
        heading: on the page.
        text: explains it there.
        draw: may raise `CANNOT_BE_DRAWN`.
    """

    file: str
    heading: str
    text: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class WrittenReport:
    """Where a report lies, and what is missing in it.

    Attributes:
        place: path or URI of report.html.
        left_out: why pictures of the network were left out; None if they were not.
        notes: of what is damaged, of changed networks, and of what was asked for and does nothing.
    """

    place: str
    left_out: str | None
    notes: tuple[str, ...] = ()


def write_report(
    directory: RunDirectory,
    measured: tuple[TrainedRun, Split] | None = None,
    left_out: str | None = None,
    notes: Sequence[str] = (),
) -> WrittenReport:
    """Write report.html and plots/*.png into a run directory.

    Args:
        directory: of the run, with a checkpoint.
        measured: its network and test samples; None if there are not both.
        left_out: why not, if that is to be told.
        notes: to be told besides.
    """
    plan, metrics = RunPlan(directory.config(), directory.facts()), directory.metrics()
    pngs, not_drawn = list[tuple[str, str, bytes]](), list[str]()
    for picture in _training_pictures(plan, metrics) + ([] if measured is None else _network_pictures(*measured)):
        try:
            png = _png(picture.draw)
        except CANNOT_BE_DRAWN as error:
            not_drawn.append(f"plots/{picture.file}.png is left out, for its figures cannot be drawn: {error}")
            continue
        directory.write_file(f"plots/{picture.file}.png", png)
        pngs.append((picture.heading, picture.text, png))
    page = _page(directory, plan, metrics, pngs)
    told = (*notes, *damage_told(metrics, directory), *not_drawn)
    return WrittenReport(directory.write_file("report.html", page.encode()), left_out, told)


def _page(directory: RunDirectory, plan: RunPlan, metrics: list[Record], pngs: list[tuple[str, str, bytes]]) -> str:
    manifest, scores = directory.checkpoints.manifest(), scores_of(plan, metrics)
    best = None if scores is None else next(iter(scores.best(1, among=directory.checkpoints.steps())), None)
    return html_page(
        title=f"{_method(plan)} on {plan.facts.name}",
        subtitle=f"{_blocks(plan)}; {directory}",
        headline=_headline(metrics),
        pictures=pngs,
        facts=_facts(plan, metrics, manifest, best),
        fingerprints={entry.name: entry.sha256 for entry in manifest.stages},
        config=without_secrets(to_yaml(plan.config)),
    )


def _training_pictures(plan: RunPlan, metrics: list[Record]) -> list[Picture]:
    rounds, evaluations = of_kind(metrics, RoundDone), of_kind(metrics, Evaluated)
    objectives, updates = of_kind(metrics, ObjectiveMeasured), of_kind(metrics, EmbeddingUpdated)
    text = "One loss for all blocks." if plan.end_to_end else "Every block minimises its own error."
    pictures = [Picture("loss", "Loss over steps", text, partial(plots.loss_over_steps, rounds))]
    if evaluations:
        text = "The whole chain, assembled from the blocks' snapshots at the same step."
        draw = partial(plots.accuracy_over_steps, evaluations)
        pictures.append(Picture("accuracy", "Accuracy over steps", text, draw))
    if objectives:
        text = "What each block still gets wrong at the noise level that it is used at, or over the range that it owns."
        draw = partial(plots.denoising_of_blocks, plan.schedule, objectives[-1])
        pictures.append(Picture("denoising", "Denoising error against noise level", text, draw))
        text = "Cross-entropy of the classifier, KL of z_0 to noise, and the denoising terms of all blocks together."
        pictures.append(Picture("terms", "The objective", text, partial(plots.terms_over_steps, objectives)))
    if updates:
        text = "Embeddings that shrink or come together make denoising easy and classification hard."
        draw = partial(plots.embedding_over_steps, updates)
        pictures.append(Picture("embedding", "The learned class embeddings", text, draw))
    return pictures


def _method(plan: RunPlan) -> str:
    if plan.end_to_end:
        return "Back-propagation"
    if not plan.takes_level:
        return "NoProp-DT"
    return "NoProp-CT" if plan.config.blocks.count == 1 else "NoProp with ranges of noise levels"


def _blocks(plan: RunPlan) -> str:
    count = plan.config.blocks.count
    return "1 block" if count == 1 else f"{count} blocks {_between_blocks(plan)}"


def _between_blocks(plan: RunPlan) -> str:
    if plan.end_to_end:
        return "trained end to end"
    return "that share W_embed alone" if EMBEDDING in plan.stages else "without a gradient between them"


def tracked_pictures(
    plan: RunPlan,
    directory: RunDirectory,
    held_out: HeldOut,
    assemble: Callable[[Mapping[Stage, Snapshot]], NoPropNetwork],
) -> dict[str, bytes]:
    """The pictures that experiment trackers get, as PNGs: `loss`, and `path` where there is a network of images.

    Args:
        plan: of the run.
        directory: of the run.
        held_out: of its data.
        assemble: puts the network of a checkpoint together.
    """
    drawn = {"loss": _png(partial(plots.loss_over_steps, of_kind(directory.metrics(), RoundDone)))}
    if plan.config.blocks.only is None and directory.checkpoints.steps():
        snapshots, _ = directory.checkpoints.load_last_whole()
        run = TrainedRun(directory, plan, assemble(snapshots), next(iter(snapshots.values())).step)
        drawn |= {each.file: _png(each.draw) for each in _path_picture(run, held_out.test)}
    return drawn


def _network_pictures(run: TrainedRun, whole_test: Split) -> list[Picture]:
    test = Split(whole_test.inputs[:PARTS_SAMPLES], whole_test.labels[:PARTS_SAMPLES])
    parts = evaluate_blocks(run.network, test, "mean")
    text = "Only the chain and its parts together show whether the chain does anything (mean sampler)."
    pictures = [Picture("parts", "Accuracy through the blocks", text, partial(plots.accuracy_of_parts, parts))]
    return pictures + _levels_picture(run, test) + _path_picture(run, test)


def _levels_picture(run: TrainedRun, test: Split) -> list[Picture]:
    """The errors over noise levels, if blocks own ranges of them; else none."""
    if not run.plan.takes_level:
        return []
    text = "Each block is measured over the range that it owns; it may take several steps through it."
    return [Picture("levels", "Error over noise levels", text, partial(_levels, run, test))]


def _levels(run: TrainedRun, test: Split) -> Figure:
    steps = sorted({*STEPS_PER_BLOCK, run.network.steps_per_block})
    accuracies = accuracy_by_steps(run.network, test, steps, ("mean", "stochastic"))
    trained = [(log_snr(each.lowest), log_snr(each.highest)) for each in run.plan.config.noise_ranges()]
    return plots.error_over_levels(level_errors(run.network, test), run.plan.schedule, trained, accuracies)


def _path_picture(run: TrainedRun, test: Split) -> list[Picture]:
    """The path of the first sample, if that is an image; else none."""
    if len(run.plan.facts.input_shape) != 3 or test.inputs.dtype != np.uint8:
        return []
    samples = Samples(test.inputs[:1], run.plan.facts, run.network.device)
    x = samples.batch(np.zeros(1, dtype=np.int64))
    draw = partial(plots.path_of_z, run.network, test.inputs[:1][0], x, int(test.labels[0]))
    text = "Each row is one z_t; with one-hot embeddings its dimensions are the classes."
    return [Picture("path", "One sample's z on its way from noise to label", text, draw)]


def _headline(metrics: list[Record]) -> dict[str, str]:
    return {
        f"{each.split} accuracy, {each.sampler} sampler, {each.samples:,} samples, step {each.step:,}": (
            f"{each.accuracy:.2%}"
        )
        for each in latest_metrics(metrics).evaluations
    }


def _facts(plan: RunPlan, metrics: list[Record], manifest: Manifest, best: int | None) -> dict[str, str]:
    rounds = of_kind(metrics, RoundDone)
    blocks = [each for each in rounds if each.stage.kind in ("block", "network")]
    steps, busy = sum(each.steps for each in blocks), sum(each.seconds for each in blocks)
    facts = {
        "data": f"{plan.facts.name}: " + ", ".join(f"{n:,} {part}" for part, n in plan.facts.samples.items()),
        "steps": f"{manifest.step:,} of batch {plan.config.training.batch_size} for every block",
        "block-steps": f"{steps:,} in {busy_seconds(rounds):.1f} s of training",
        "time of a block-step": f"{1000 * busy / max(1, steps):.2f} ms, mean",
        "software": ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
    }
    if best is not None:
        facts["best checkpoint"] = f"step {best:,}, by {plan.config.score}; see evaluate --checkpoint best"
    objective = latest_metrics(metrics).objective
    if objective is not None:
        terms = ("cross_entropy", "kl", "denoising", "objective", "elbo")
        facts["Eq. 8 (validation, nats)"] = ", ".join(f"{term} {getattr(objective, term):.4g}" for term in terms)
    return facts


def _png(draw: Callable[[], Figure]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of signs that no font has, and of logarithms of what is not above 0
        draw().savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
