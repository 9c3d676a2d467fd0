"""The benchmarks' tables as pictures: each function draws one figure from the rows of its command."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, Any]
ALLOWED_GROWTH = 1.25
"""Of the time per block-step, from the fewest blocks to the most."""


def dispatch_figure(rows: Sequence[Row]) -> Figure:
    """Microseconds that the engine costs for each block-step over the number of blocks, with the spread of turns."""
    figure, axes = _figure()
    blocks, medians = [r["blocks"] for r in rows], [r["microseconds_per_block_step"] for r in rows]
    spread = [
        [m - 1e6 / r["most"] for m, r in zip(medians, rows, strict=True)],
        [1e6 / r["least"] - m for m, r in zip(medians, rows, strict=True)],
    ]
    axes.errorbar(blocks, medians, yerr=spread, marker="o", capsize=3)
    axes.axhline(
        ALLOWED_GROWTH * medians[0],
        color="grey",
        linestyle=":",
        label=f"{ALLOWED_GROWTH} × that of {blocks[0]} blocks",
    )
    axes.set(title="Cost of coordination", xlabel="blocks", ylabel="µs per block-step", ylim=(0, None))
    axes.legend(loc="lower right")
    return figure


def scaling_figure(rows: Sequence[Row]) -> Figure:
    """Block-steps per second over workers, against ideal."""
    figure, axes = _figure()
    for kind in dict.fromkeys(r["kind"] for r in rows):
        line = [r for r in rows if r["kind"] == kind]
        workers = [r["workers"] for r in line]
        (drawn,) = axes.plot(workers, [r["block_steps_per_second"] for r in line], marker="o", label=kind)
        axes.plot(workers, [r["ideal"] for r in line], color=drawn.get_color(), linestyle=":", label=f"{kind}, ideal")
    axes.set(title="One block for each worker", xlabel="workers", ylabel="block-steps per second")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend()
    return figure


def memory_figure(rows: Sequence[Row]) -> Figure:
    """Peak memory over the number of blocks."""
    figure, axes = _figure()
    for side in ("block_worker", "baseline"):
        values = [r[f"{side}_mib"] for r in rows]
        axes.plot([r["blocks"] for r in rows], values, marker="o", label=side.replace("_", " "))
    axes.set(title="Peak memory of a process", xlabel="blocks T", ylabel="MiB", ylim=(0, None))
    axes.legend()
    return figure


def device_figure(rows: Sequence[Row]) -> Figure:
    """Block-steps per second of each way of running the blocks, with the spread of turns."""
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    names = [f"{r['way']} ({r['precision']})" for r in rows]
    medians = [r["block_steps_per_second"] for r in rows]
    spread = [
        [m - r["least"] for m, r in zip(medians, rows, strict=True)],
        [r["most"] - m for m, r in zip(medians, rows, strict=True)],
    ]
    bars = axes.barh(names, medians, xerr=spread, capsize=3)
    axes.bar_label(bars, [f" {r['times_plain']:.2f} ×" for r in rows], padding=6)
    axes.invert_yaxis()
    axes.set(title="Ways of running the blocks of one device", xlabel="block-steps per second")
    axes.margins(x=0.15)
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    return figure, figure.subplots()
