"""A run of ten blocks on a cluster that begins with nothing: 0 → 10 devices → 3 → 10, with Ray's own autoscaler.

A device is a node of one core, and blocks sleep for most of a step, so that ten of them fit onto a few cores. Nodes
come because Ray's autoscaler asks a cloud in miniature for them. The cloud takes seven away with a short notice, has no
more than three for a while, and then ten again.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from noprop_dist.bench.device_time import (
    DeviceSeconds,
    Sample,
    Span,
    device_seconds,
    first_step,
    last_step,
    smoothed,
    spans,
    start_up_seconds,
    training_of,
    watched,
)
from noprop_dist.bench.faults import fingerprints, sequential_fingerprints
from noprop_dist.bench.harness import Say
from noprop_dist.bench.live_run import LiveRun
from noprop_dist.bench.networks import counted_steps, sleeping
from noprop_dist.engines.core.failure_policy import BY_CLOUD
from noprop_dist.engines.ray.fake_cloud import FakeCloud
from noprop_dist.records import WorkerLost

BLOCKS = 10
FEW = 3
NOTICE_SECONDS = 5
STEP_SECONDS = 0.1
"""Of sleep; a step computes for some two milliseconds beside it."""
GIVE_BACK_SECONDS = 60.0
"""For the autoscaler to end idle nodes after the run; it is told to do so after half a minute."""
POLL_SECONDS = 0.5
SETTINGS = (
    *("training.batch_size=16", "engine.round_steps=4", "checkpoint.snapshot_every_steps=48"),
    *("checkpoint.every_steps=96", "metrics.port=null"),
)


@dataclass(frozen=True)
class PhaseRow:
    """One part of the time; `share` is `training` of `wanted`, and all three are means over that part."""

    phase: str
    seconds: float
    devices_there: float
    wanted: float
    training: float
    share: float


@dataclass(frozen=True)
class Elastic:
    """What was measured.

    Attributes:
        begun: when the run was started, Unix seconds.
        few: when the cloud announced that it takes devices away.
        many: when it had room for all again.
        first_node: when the first device was there.
        first_step: when the first step was done.
        last_step: when the last one was.
        empty: when the last device was given back; None if it was not.
        spans: of the run, and after it.
        start_up: device seconds from a node's coming until it first trained.
        most_trained: devices that trained at the same time, at most, in each phase.
        charged: losses that cost failure budget.
        replayed: steps that were done more than once.
        equal: whether every weight has the bits of the sequential engine.
    """

    begun: float
    few: float
    many: float
    first_node: float
    first_step: float
    last_step: float
    empty: float | None
    spans: Sequence[Span]
    start_up: float
    charged: int
    replayed: int
    equal: bool

    @property
    def total(self) -> DeviceSeconds:
        """From the start of the run to its last step."""
        return device_seconds(self.spans, self.begun, self.last_step)

    def rows(self) -> list[PhaseRow]:
        """The phases, and all together."""
        phases = {
            f"0 to {BLOCKS}": (self.begun, self.few),
            f"{BLOCKS} to {FEW}": (self.few, self.many),
            f"{FEW} to {BLOCKS}": (self.many, self.last_step),
            "all": (self.begun, self.last_step),
        }
        return [_row(name, device_seconds(self.spans, *times), times[1] - times[0]) for name, times in phases.items()]

    def lines(self) -> list[str]:
        """In words."""
        total = self.total
        back = "not all within a minute of" if self.empty is None else f"all {self.empty - self.last_step:.0f} s after"
        start_up = self.start_up / total.wanted if total.wanted else 0.0
        return [
            f"first step after {self.first_step - self.begun:.1f} s; the first device was there after "
            f"{self.first_node - self.begun:.1f} s",
            f"device seconds: {total.training:.0f} trained of {total.wanted:.0f} for which the run had work "
            f"({total.share:.3f}), {total.there:.0f} there",
            f"from a device's coming until it first trained: {self.start_up:.0f} device seconds ({start_up:.3f})",
            f"devices given back: {back} the last step",
            f"losses charged: {self.charged}; steps done twice: {self.replayed}; "
            f"same fingerprints as the sequential engine: {'yes' if self.equal else 'NO'}",
        ]


def _row(phase: str, sums: DeviceSeconds, seconds: float) -> PhaseRow:
    there, wanted, training = (
        each / seconds if seconds > 0 else 0.0 for each in (sums.there, sums.wanted, sums.training)
    )
    return PhaseRow(phase, seconds, there, wanted, training, sums.share)


def bench_elastic(seconds: float, steps: int | None, settings: Sequence[str], folder: Path, say: Say) -> Elastic:
    """Measure one run; only in namespaces of its own, see `bench.namespaces`.

    Args:
        seconds: of each of the first two phases; the third ends with the run.
        steps: of each block; by default as many as ten, three and ten devices do in such a time.
        settings: further settings, as for `train`.
        folder: for the runs.
        say: told what happens.
    """
    steps = steps or round(seconds * (2 * BLOCKS + FEW) / BLOCKS / STEP_SECONDS)
    common = [*SETTINGS, f"blocks.count={BLOCKS}", f"training.max_steps={steps}", "evaluation.samples=0", *settings]
    expected = sequential_fingerprints([*common, *sleeping(0.0, BLOCKS)], folder / "sequential")
    say(f"the sequential run of {steps} steps is done")
    cloud = FakeCloud(folder, BLOCKS, {"CPU": 1})
    counter = folder / "steps"
    with watched(cloud.devices) as samples:
        begun = time.time()
        run = LiveRun(folder / "run", [*common, *sleeping(STEP_SECONDS, BLOCKS, counter)], cloud)
        try:
            few, many = _phases(run, cloud, seconds, say)
            run.finish()
            empty = _wait_until_empty(cloud)
        finally:
            run.end()
    records = run.directory.metrics()
    return Elastic(
        *(begun, few, many, _first_node(samples), first_step(records), last_step(records), empty),
        spans(samples, records, BLOCKS, steps),
        start_up_seconds(samples, records, begun),
        sum(costs_budget(each) for each in run.records(WorkerLost)),
        sum(counted_steps(counter, BLOCKS)) - BLOCKS * steps,
        fingerprints(run.directory) == expected,
    )


def costs_budget(loss: WorkerLost) -> bool:
    """Return True if a loss is charged to the stage that was at work."""
    return loss.reason not in (*BY_CLOUD, "not_started") and loss.at_work_on is not None


def _phases(run: LiveRun, cloud: FakeCloud, seconds: float, say: Say) -> tuple[float, float]:
    """Let the cloud shrink and grow; the times at which it announced that it shrinks, and at which it grew."""
    _sleep(run, seconds, say)
    nodes = sorted(cloud.devices())
    leaving = random.Random(0).sample(nodes, max(0, len(nodes) - FEW))
    few = time.time()
    cloud.set_capacity(FEW)
    for node in leaving:
        cloud.announce(node, NOTICE_SECONDS)
    say(f"the cloud takes {len(leaving)} of {len(nodes)} devices away in {NOTICE_SECONDS} s")
    _sleep(run, NOTICE_SECONDS, say)
    for node in leaving:
        cloud.take_away(node)
    _sleep(run, seconds - NOTICE_SECONDS, say)
    many = time.time()
    cloud.set_capacity(BLOCKS)
    say(f"the cloud has {BLOCKS} devices again")
    return few, many


def _sleep(run: LiveRun, seconds: float, say: Say) -> None:
    end, told = time.time() + seconds, time.time()
    while run.running and time.time() < end:
        time.sleep(POLL_SECONDS)
        if time.time() - told > 20:
            told = time.time()
            trained = training_of(run.directory.metrics())
            at_work = sum(told - busy[-1][1] < 3 for busy in trained.values())
            say(f"{len(run.cluster.devices())} devices there, {at_work} at work")


def _wait_until_empty(cloud: FakeCloud) -> float | None:
    end = time.time() + GIVE_BACK_SECONDS
    while time.time() < end:
        if not cloud.devices():
            return time.time()
        time.sleep(POLL_SECONDS)
    return None


def _first_node(samples: Sequence[Sample]) -> float:
    return next((sample.time for sample in samples if sample.nodes), samples[-1].time)


def elastic_figure(measured: Elastic) -> Figure:
    """Devices there, and those that trained, over time."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    times = [span.time - measured.begun for span in measured.spans]
    axes.step(times, [span.there for span in measured.spans], where="post", color="grey", label="there")
    axes.step(times, [span.wanted for span in measured.spans], where="post", linestyle=":", label="with work to do")
    axes.fill_between(times, smoothed(measured.spans), step="post", alpha=0.5, label="training")
    for moment, what in ((measured.few, f"cloud has {FEW}"), (measured.many, f"cloud has {BLOCKS}")):
        axes.axvline(moment - measured.begun, color="black", linewidth=0.8)
        axes.annotate(what, (moment - measured.begun, BLOCKS + 0.3), fontsize="small")
    share = f"{measured.total.share:.0%} of the device seconds with work to do trained"
    axes.set(
        title=f"{BLOCKS} blocks, 0 → {BLOCKS} → {FEW} → {BLOCKS} devices: {share}", xlabel="seconds", ylabel="devices"
    )
    axes.set_ylim(0, BLOCKS + 1.5)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.25)
    return figure
