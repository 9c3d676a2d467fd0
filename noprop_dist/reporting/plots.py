"""The figures of a run: each function draws one."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.inference.evaluation import BlockEvaluation, Evaluation
from noprop_dist.inference.levels import LevelError
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.printable import printable
from noprop_dist.records import EmbeddingUpdated, Evaluated, ObjectiveMeasured, RoundDone
from noprop_dist.reporting.comparison import Row
from noprop_dist.reporting.run_figures import RunFigures
from noprop_dist.reporting.tables import Mean
from noprop_dist.stages import CLASSIFIER, NETWORK, Stage

BLOCK_COLOURS = mpl.colormaps["viridis"]
RUN_COLOURS = mpl.colormaps["tab10"]
MOST_LABELS, LONGEST_NAME = 20, 40
"""Of a legend of runs: labels one below another, and characters of a name."""
UNLABELLED = "_"
"""What a label begins with that a legend leaves out."""


def loss_over_steps(rounds: Sequence[RoundDone]) -> Figure:
    """Squared error of every block and cross-entropy of the classifier, a point per round."""
    by_stage: dict[Stage, list[RoundDone]] = {}
    for record in rounds:
        by_stage.setdefault(record.stage, []).append(record)
    if NETWORK in by_stage:
        figure, (axes,) = _figure()
        _draw(axes, *_errors(by_stage[NETWORK]), color="tab:red")
        axes.set(title="Network, end to end", xlabel="step", ylabel="cross-entropy (nats)", yscale="log")
        _finish(axes)
        return figure
    figure, (left, right) = _figure(columns=2)
    blocks = sorted(stage for stage in by_stage if stage.is_block)
    for number, block in enumerate(blocks):
        colour = BLOCK_COLOURS(number / max(1, len(blocks) - 1) * 0.9)
        label = block.name if len(blocks) <= 12 or number in (0, len(blocks) - 1) else UNLABELLED
        _draw(left, *_errors(by_stage[block]), label, color=colour)
    left.set(title="Blocks", xlabel="step", ylabel="‖û − u_y‖²", yscale="log")
    _finish(left, fontsize=7, ncols=2)
    _draw(right, *_errors(by_stage.get(CLASSIFIER, [])), color="tab:red")
    right.set(title="Classifier on z_T", xlabel="step", ylabel="cross-entropy (nats)", yscale="log")
    _finish(right)
    return figure


def _draw(axes: mpl.axes.Axes, steps: Sequence[float], values: Sequence[float], label: str = "", **style: Any) -> None:
    """A line over steps; a point alone is a large marker, and the legend has its value."""
    if len(steps) == 1:
        style = {"marker": "o", **style, "markersize": 9}
        label = f"{label}: {values[0]:.4g}" if label else f"{values[0]:.4g}"
    axes.plot(steps, values, label=label or UNLABELLED, **{"linewidth": 1.2, **style})


def _finish(axes: mpl.axes.Axes, **legend: Any) -> None:
    """Add the legend. Where all points are of one step, let the axes show how far that is, and no hair's breadth."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**legend)
    drawn = np.concatenate([np.empty((0, 2)), *(line.get_xydata() for line in axes.lines)])
    steps, values = np.unique(drawn[:, 0]), drawn[:, 1]
    if len(steps) != 1 or not np.isfinite(values).all():
        return
    axes.set(xlim=(0, 2 * steps[0]), xticks=(0, steps[0]))
    if axes.get_yscale() == "linear":
        axes.set_ylim(0, 1.05 * values.max() or 1)
    elif values.min() > 0:
        axes.set_ylim(values.min() / 3, 3 * values.max())


def accuracy_over_steps(evaluations: Sequence[Evaluated]) -> Figure:
    """Accuracy of the whole network at each checkpoint."""
    figure, (axes,) = _figure()
    for split, sampler in dict.fromkeys((each.split, each.sampler) for each in evaluations):
        line = [each for each in evaluations if (each.split, each.sampler) == (split, sampler)]
        steps, accuracies = [each.step for each in line], [100 * each.accuracy for each in line]
        _draw(axes, steps, accuracies, _plain(f"{split} ({sampler})"), marker="o")
    axes.set(title="Accuracy at checkpoints", xlabel="step", ylabel="accuracy (%)")
    _finish(axes)
    return figure


def accuracy_of_runs(rows: Sequence[Row]) -> Figure:
    """Test accuracy of runs at their checkpoints, over seconds of training and over epochs.

    Each run is a line, dashed for the baseline. Repetitions have one colour; the legend has the accuracy at their ends.
    """
    figure, (left, right) = _figure(columns=2, width=15)
    right.sharey(left)
    lines, labels = list[Line2D](), list[str]()
    drawn = [tuple(run for run in row.runs if run.curve) for row in rows]
    colours = RUN_COLOURS if len(drawn) <= RUN_COLOURS.N else BLOCK_COLOURS.resampled(len(drawn))
    for number, (row, runs) in enumerate(zip(rows, drawn, strict=True)):
        for run in runs:
            _draw_curve(left, run, "training_seconds", colours(number))
            line = _draw_curve(right, run, "epochs", colours(number))
        if runs:
            lines.append(line)
            ends = Mean.of([run.curve[-1].test_accuracy for run in runs])
            name = row.name if len(row.name) <= LONGEST_NAME else f"{row.name[: LONGEST_NAME - 2]} …"
            labels.append(_plain(f"{ends.text('.2f', 100)} %  {name}"))
    left.set(title="Over the time of training", xlabel="training (s)", ylabel="test accuracy, mean sampler (%)")
    right.set(title="Over the training set", xlabel="epochs")
    columns = -(-len(labels) // MOST_LABELS)
    figure.legend(lines, labels, loc="outside right upper", fontsize=8, ncols=columns, frameon=False)
    return figure


def _draw_curve(axes: mpl.axes.Axes, run: RunFigures, over: str, colour: Any) -> Line2D:
    """A run's test accuracies over a field of its `CurvePoint`s, such as seconds. Points without it are left out."""
    points = [each for each in run.curve if getattr(each, over) is not None]
    xs, ys = [getattr(each, over) for each in points], [100 * each.test_accuracy for each in points]
    dashes = "--" if run.method == "backprop" else "-"
    (line,) = axes.plot(xs, ys, color=colour, linestyle=dashes, linewidth=1.2, marker="o", markersize=3)
    return line


def denoising_of_blocks(schedule: Schedule, objective: ObjectiveMeasured) -> Figure:
    """Denoising error of every block over the noise level of its input, and its term of Eq. 8, on held-out data."""
    figure, (left, right) = _figure(columns=2)
    errors, blocks = objective.squared_errors, range(1, schedule.T + 1)
    snr = [schedule.snr(t - 1) for t in blocks]
    left.plot(snr, errors, marker="o")
    for t, x, y in zip(blocks, snr, errors, strict=True):
        left.annotate(f"{t}", (x, y), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
    left.set(
        title="Denoising error of each block",
        xlabel="SNR(t − 1) of its input: noise on the left, label on the right",
        ylabel="‖û − u_y‖²",
        xscale="log",
        yscale="log",
    )
    right.bar(blocks, objective.denoising_terms, color="tab:blue")
    right.set(title="Its term of Eq. 8", xlabel="block t", ylabel="½ η (SNR(t) − SNR(t−1)) ‖û − u_y‖² (nats)")
    return figure


def error_over_levels(
    errors: Sequence[LevelError],
    schedule: Schedule,
    trained: Sequence[tuple[float, float]],
    accuracies: Mapping[tuple[int, Sampler], Evaluation],
) -> Figure:
    """Error of every block over its range of noise levels, and accuracy by the steps that are taken through it.

    Args:
        errors: of blocks 1, …, T.
        schedule: its levels are the borders of the blocks.
        trained: lowest and highest λ that blocks 1, …, T were trained on.
        accuracies: by steps per block and sampler.
    """
    figure, (left, right) = _figure(columns=2)
    for t in range(1, schedule.T + 1):
        of_block = [each for each in errors if each.block == t]
        colour = BLOCK_COLOURS((t - 1) / max(1, schedule.T - 1) * 0.9)
        left.plot([each.log_snr for each in of_block], [each.squared_error for each in of_block], ".-", color=colour)
        left.axvspan(*trained[t - 1], ymax=0.02, color=colour)
    for t in range(schedule.T + 1):
        left.axvline(schedule.log_snr(t), color="grey", linewidth=0.6, linestyle=":")
    left.set(
        title="Error of each block (dotted: borders; below: levels it was trained on)",
        xlabel="λ = ln SNR of its input: noise on the left, label on the right",
        ylabel="‖û − u_y‖²",
        yscale="log",
    )
    for sampler in dict.fromkeys(sampler for _, sampler in accuracies):
        line = [(k, 100 * each.accuracy) for (k, of), each in accuracies.items() if of == sampler]
        right.plot(*zip(*line, strict=True), marker="o", label=sampler)
    right.set(title="Accuracy of the chain", xlabel="steps per block", ylabel="accuracy (%)")
    right.set_xticks(sorted({k for k, _ in accuracies}))
    right.legend()
    return figure


def terms_over_steps(objectives: Sequence[ObjectiveMeasured]) -> Figure:
    """The terms of Eq. 8 and −ELBO at each checkpoint."""
    figure, (axes,) = _figure()
    steps = [each.step for each in objectives]
    _draw(axes, steps, [each.cross_entropy for each in objectives], "cross-entropy", marker="o")
    _draw(axes, steps, [each.kl for each in objectives], "KL", marker="o")
    _draw(axes, steps, [each.denoising for each in objectives], "denoising, all blocks", marker="o")
    _draw(axes, steps, [-each.elbo for each in objectives], "−ELBO (η = 1)", marker="s", linestyle="--")
    axes.set(title="Terms of Eq. 8 (held-out data)", xlabel="step", ylabel="nats per sample", yscale="log")
    _finish(axes)
    return figure


def embedding_over_steps(updates: Sequence[EmbeddingUpdated]) -> Figure:
    """Length of the class embeddings and the least distance between two of them, a point per version of W_embed."""
    figure, (axes,) = _figure()
    steps = [each.step for each in updates]
    _draw(axes, steps, [each.mean_norm for each in updates], "mean length ‖u_y‖")
    _draw(axes, steps, [each.least_distance for each in updates], "least distance of two classes")
    axes.set(title="W_embed", xlabel="step", ylim=(0, None))
    _finish(axes)
    return figure


def accuracy_of_parts(blocks: Sequence[BlockEvaluation]) -> Figure:
    """Accuracy as z moves through the blocks, and of each block alone."""
    figure, (axes,) = _figure()
    t = [block.block for block in blocks]
    axes.plot(t, [100 * block.after_block for block in blocks], marker="o", label="chain: nearest embedding to z_t")
    axes.plot(t, [100 * block.prediction for block in blocks], marker="s", label="chain: class of û_t")
    axes.plot(
        t,
        [100 * block.alone for block in blocks],
        marker="^",
        linestyle="--",
        label="block t alone, z ~ N(0, I)",
    )
    axes.set(title="Accuracy through the blocks (test set)", xlabel="block t", ylabel="accuracy (%)")
    axes.legend()
    return figure


def path_of_z(network: NoPropNetwork, image: NDArray[np.uint8], x: torch.Tensor, label: int) -> Figure:
    """One sample's z_t on its way from noise to label, with the `mean` and the `stochastic` sampler.

    Args:
        network: that classifies it.
        image: the sample as it is stored, (C, H, W).
        x: the same normalised, (1, C, H, W).
        label: its true class; only written into the title.
    """
    figure, (picture, *panels) = _figure(columns=3, width=13)
    shown = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    picture.imshow(shown, cmap="gray" if image.shape[0] == 1 else None)
    picture.set(title=_plain(f"x, labelled {network.facts.class_names[label]}"), xticks=[], yticks=[])
    samplers: tuple[Sampler, ...] = ("mean", "stochastic")
    for axes, sampler in zip(panels, samplers, strict=True):
        axes.grid(visible=False)
        with torch.inference_mode():
            path = [network.noise(1, 0, 0, 0), *(link.z for link in network.chain(x, sampler))]
        z = torch.cat(path).cpu().numpy()
        mesh = axes.imshow(z, aspect="auto", cmap="RdBu_r", vmin=-2, vmax=2)
        axes.set(title=f"z_t, {sampler} sampler", ylabel="t (0 is noise)", xlabel="dimension of z")
        figure.colorbar(mesh, ax=axes)
    return figure


def _plain(text: str) -> str:
    """Text that matplotlib takes for no formula, whatever dollar signs are in it."""
    return printable(text).replace("$", r"\$")


def _errors(rounds: Sequence[RoundDone]) -> tuple[list[float], list[float]]:
    """(step, error): each round's mean, at the middle of its steps."""
    return [each.step - each.steps / 2 for each in rounds], [each.error for each in rounds]


def _figure(columns: int = 1, width: float | None = None) -> tuple[Figure, list[mpl.axes.Axes]]:
    figure = Figure(figsize=(width or (6.5 * columns if columns > 1 else 8), 4.2), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
        each.set_axisbelow(True)
    return figure, list(axes)
