"""A campaign of preemptions, with notice and without, of nodes that hold any process of a run; each node is replaced.

A node is one device of one core, and blocks sleep for most of a step, so that ten of them fit onto a few cores. Their
processes are forked with their imports done: ten machines would import at the same time, each on cores of its own. All
preemptions of one run are of the same sort. So the steps that it did more than once, which its networks count, are
those that this sort costs, to the step.
"""

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from noprop_dist.bench.device_time import (
    DeviceSeconds,
    Span,
    device_seconds,
    first_step,
    last_step,
    smoothed,
    spans,
    start_up_seconds,
    watched,
)
from noprop_dist.bench.elastic import SETTINGS, STEP_SECONDS, costs_budget
from noprop_dist.bench.faults import fingerprints, sequential_fingerprints
from noprop_dist.bench.harness import Say
from noprop_dist.bench.live_run import LiveRun
from noprop_dist.bench.networks import counted_steps, sleeping
from noprop_dist.engines.ray.fork_server import fork_server
from noprop_dist.engines.ray.loopback import LoopbackCluster, loopback_cluster
from noprop_dist.records import RoundDone, WorkerLost
from noprop_dist.stages import Stage

BLOCKS = 10
NOTICE_SECONDS = 4.0
ROLES = ("coordinator", "classifier worker", "evaluator", "block worker")
"""What a victim may hold; a node that holds several counts for the first."""
TURNS = ("coordinator", "classifier worker", "evaluator", *["block worker"] * 7)
"""What ten victims are wanted to hold; where no node holds it, a block worker. Ten nodes hold one coordinator."""
FIRST_SHARE, LAST_SHARE = 0.02, 0.9
"""Of a run's steps, between which nodes are preempted."""
STORE_BYTES = 100 * 2**20
UNDISTURBED, WITH_NOTICE, WITHOUT_NOTICE = "undisturbed", "with notice", "without notice"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Campaign:
    """What one run of a campaign was like.

    Attributes:
        sort: of its preemptions.
        begun: first step, Unix seconds.
        ended: last step.
        victims: what the preempted nodes held, and when they went.
        charged: losses that cost failure budget.
        replayed: steps that were done more than once.
        equal: whether every weight has the bits of the sequential engine.
        spans: what the devices did.
        start_up: device seconds from a node's coming until it first trained, without those of the first nodes.
    """

    sort: str
    begun: float
    ended: float
    victims: Sequence[tuple[float, str]]
    charged: int
    replayed: int
    equal: bool
    spans: Sequence[Span]
    start_up: float

    @property
    def total(self) -> DeviceSeconds:
        """From the first step to the last."""
        return device_seconds(self.spans, self.begun, self.ended)


@dataclass(frozen=True)
class PreemptionRow:
    """All runs of one sort together.

    Attributes:
        sort: of the preemptions.
        runs: that were so disturbed.
        preempted: nodes.
        coordinator: of them, those that held it.
        classifier: those that held its worker.
        evaluator: those that held it.
        block_worker: those that held one, and nothing of the above.
        nothing: those that held nothing.
        charged: losses that cost failure budget.
        steps_lost: and done again.
        wall_s: from the first step to the last, mean.
        device_seconds: that were there meanwhile, mean.
        to_undisturbed: their ratio to an undisturbed run's: the wall time with as many devices.
        without_start_up: the same, without the time in which new nodes started their first worker.
        lost_per_node: device seconds more than undisturbed, for each preempted node.
        equal: whether all weights of all runs have the bits of the sequential engine.
    """

    sort: str
    runs: int
    preempted: int
    coordinator: int
    classifier: int
    evaluator: int
    block_worker: int
    nothing: int
    charged: int
    steps_lost: int
    wall_s: float
    device_seconds: float
    to_undisturbed: float
    without_start_up: float
    lost_per_node: float
    equal: bool


@dataclass(frozen=True)
class Settled:
    """What all runs of a campaign have in common."""

    steps: int
    every: float
    settings: Sequence[str]
    expected: Mapping[Stage, str]
    folder: Path


def bench_preemptions(
    count: int, seed: int, every: float, steps: int, settings: Sequence[str], folder: Path, say: Say
) -> list[Campaign]:
    """One undisturbed run, then runs with notice and without in turns, until `count` nodes were preempted.

    Args:
        count: of preemptions.
        seed: of their order.
        every: seconds from one to the next.
        steps: of each block in each run.
        settings: further settings, as for `train`.
        folder: for the runs.
        say: told what happens.
    """
    common = [*SETTINGS, f"blocks.count={BLOCKS}", f"training.max_steps={steps}", *settings]
    reference = [*common, "evaluation.samples=0", *sleeping(0.0, BLOCKS)]
    expected = sequential_fingerprints(reference, folder / "sequential")
    say(f"the sequential run of {steps} steps is done")
    settled = Settled(steps, every, [*common, "engine.max_failures=0", "evaluation.samples=16"], expected, folder)
    generator = random.Random(seed)
    done = [_campaign(settled, UNDISTURBED, 0, generator, 0, say)]
    while (left := count - sum(len(each.victims) for each in done)) > 0:
        number = len(done)
        sort = WITH_NOTICE if number % 2 == 1 else WITHOUT_NOTICE
        share = (left + 1) // 2 if number == 1 else left  # if all fit into two runs, half of them have a notice
        done.append(_campaign(settled, sort, share, generator, number, say))
        if not done[-1].victims:
            break
    return done


def _campaign(settled: Settled, sort: str, most: int, generator: random.Random, number: int, say: Say) -> Campaign:
    folder, counter = settled.folder / f"run-{number:02d}", settled.folder / f"steps-{number:02d}"
    # The head is never preempted, so the coordinator is to be elsewhere.
    nodes = loopback_cluster(BLOCKS, store_bytes=STORE_BYTES, stable_head=False)
    with fork_server(), nodes as cluster, watched(cluster.devices) as samples:
        run = LiveRun(folder, [*settled.settings, *sleeping(STEP_SECONDS, BLOCKS, counter)], cluster)
        try:
            victims = [] if most == 0 else _preempt_until(run, cluster, sort, most, settled, generator, say)
            run.finish()
        finally:
            run.end()
    records = run.directory.metrics()
    begun, ended = first_step(records), last_step(records)
    campaign = Campaign(
        *(sort, begun, ended, victims, sum(costs_budget(each) for each in run.records(WorkerLost))),
        sum(counted_steps(counter, BLOCKS)) - BLOCKS * settled.steps,
        fingerprints(run.directory) == settled.expected,
        spans(samples, records, BLOCKS, settled.steps),
        start_up_seconds(samples, records, begun),
    )
    say(
        f"{sort}: {len(victims)} nodes, {ended - begun:.0f} s, {campaign.charged} losses charged, "
        f"{campaign.replayed} steps done again, same bits: {'yes' if campaign.equal else 'NO'}"
    )
    return campaign


def _preempt_until(
    run: LiveRun,
    cluster: LoopbackCluster,
    sort: str,
    most: int,
    settled: Settled,
    generator: random.Random,
    say: Say,
) -> list[tuple[float, str]]:
    """Preempt nodes until there were enough, or the run is nearly done."""
    victims: list[tuple[float, str]] = []
    run.wait_for("the first blocks to train", lambda: _reached(run) > FIRST_SHARE * settled.steps)
    wanted = [role for _ in range(most) for role in generator.sample(TURNS, len(TURNS))]
    while len(victims) < most and run.running and _reached(run) < LAST_SHARE * settled.steps:
        begun = time.time()
        number, held = _victim(run, cluster, wanted[len(victims)], generator)
        if sort == WITH_NOTICE:
            cluster.announce(cluster.node_id(number), NOTICE_SECONDS)
            time.sleep(NOTICE_SECONDS)
        victims.append((time.time(), held))
        cluster.kill_node(number)
        cluster.return_node(number)
        if len(victims) % 10 == 0:
            say(f"{len(victims)} nodes preempted {sort}, fastest block at step {_reached(run)} of {settled.steps}")
        time.sleep(max(0.0, begun + settled.every - time.time()))
    return victims


def _victim(run: LiveRun, cluster: LoopbackCluster, wanted: str, generator: random.Random) -> tuple[int, str]:
    """A node that holds what is wanted, or else a block worker, or else any; and what it holds."""
    held = _held(run)
    numbers = {cluster.node_id(number): number for number in range(BLOCKS)}
    for role in (wanted, "block worker"):
        nodes = [node for node in numbers if role in held.get(node, ())]
        if nodes:
            node = generator.choice(nodes)
            return numbers[node], next(each for each in ROLES if each in held[node])
    return generator.randrange(BLOCKS), "nothing"


def _held(run: LiveRun) -> dict[str, set[str]]:
    """What the nodes hold, by their identifiers."""
    held: dict[str, set[str]] = {}
    for worker, node in run.nodes_of_workers().items():
        held.setdefault(node, set()).add(next(role for role in ROLES if worker.startswith(role)))
    return held


def _reached(run: LiveRun) -> int:
    return max((each.step for each in run.records(RoundDone) if each.stage.is_block), default=0)


def summary(done: Sequence[Campaign]) -> list[PreemptionRow]:
    """A row for each sort."""
    sorts = [sort for sort in (UNDISTURBED, WITH_NOTICE, WITHOUT_NOTICE) if any(each.sort == sort for each in done)]
    undisturbed = done[0].total.there
    return [_row(sort, [each for each in done if each.sort == sort], undisturbed) for sort in sorts]


def _row(sort: str, runs: Sequence[Campaign], undisturbed: float) -> PreemptionRow:
    held = Counter(role for run in runs for _, role in run.victims)
    there = sum(run.total.there for run in runs) / len(runs)
    start_up = sum(run.start_up for run in runs) / len(runs)
    return PreemptionRow(
        sort=sort,
        runs=len(runs),
        preempted=held.total(),
        coordinator=held["coordinator"],
        classifier=held["classifier worker"],
        evaluator=held["evaluator"],
        block_worker=held["block worker"],
        nothing=held["nothing"],
        charged=sum(run.charged for run in runs),
        steps_lost=sum(run.replayed for run in runs),
        wall_s=sum(run.ended - run.begun for run in runs) / len(runs),
        device_seconds=there,
        to_undisturbed=there / undisturbed,
        without_start_up=(there - start_up) / undisturbed,
        lost_per_node=(there - undisturbed) * len(runs) / held.total() if held else 0.0,
        equal=all(run.equal for run in runs),
    )


def preemptions_figure(done: Sequence[Campaign]) -> Figure:
    """For each run: devices there and training over time, and when nodes went."""
    figure = Figure(figsize=(8, 1.9 * len(done) + 0.6), layout="constrained")
    for axes, run in zip(figure.subplots(len(done), 1, sharex=True, squeeze=False)[:, 0], done, strict=True):
        times = [span.time - run.begun for span in run.spans]
        axes.step(times, [span.there for span in run.spans], where="post", color="grey", linewidth=0.8, label="there")
        axes.fill_between(times, smoothed(run.spans), step="post", alpha=0.5, label="training")
        axes.plot([went - run.begun for went, _ in run.victims], [10.7] * len(run.victims), "|", color="black")
        axes.set(title=f"{run.sort}: {len(run.victims)} nodes preempted", ylabel="devices", ylim=(0, BLOCKS + 1.5))
        axes.grid(alpha=0.25)
    axes.set_xlabel("seconds since the first step")
    axes.legend(loc="lower left")
    return figure
