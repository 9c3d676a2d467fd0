"""The bits of the sequential engine, whatever is decided and whatever is lost: with real training on virtual time.

`tests/engine/test_same_bits.py` has the same on a real Ray, where a run takes seconds and not tenths of one.
"""

import pytest
from real_training import RealRun
from run_facts import fingerprints, records_of, steps_written
from scripted_runs import START_SECONDS

from noprop_dist import run_plan
from noprop_dist.api import train
from noprop_dist.engines.core import dispatch
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR, Slot
from noprop_dist.records import Evaluated, ObjectiveMeasured, RoundDone, StageRecovered, WorkerLost
from noprop_dist.stages import CLASSIFIER
from noprop_dist.storage.run_directory import RunDirectory

SECOND = Slot("block worker", 2)
KINDS = {
    "onehot": ["embedding.kind=onehot"],
    "learned": ["embedding={kind: learned, sync_steps: 4}"],
    "prototype": ["embedding={kind: prototype, sync_steps: 3}"],
    "ranges": ["blocks.noise={kind: range}", "evaluation.steps_per_block=2"],
    "vit": ["blocks.network={kind: vit, stack: 3, width: 16, patch: 4}"],
    "learned, ranges": [
        "embedding={kind: learned, sync_steps: 4}",
        "blocks.noise={kind: range, density: log-normal, weight: edm}",
    ],
}
DROPPING = "blocks.networks.3={kind: custom, path: 'dropping_network:Net'}"
RUN = ["training.max_steps=24", "checkpoint.every_steps=20", "checkpoint.snapshot_every_steps=8",
       DROPPING, "training.batch_size=16", "engine.device=cpu", "evaluation.samples=16"]  # fmt: skip
"""Block 3 has dropout, whose draws are keyed, and running statistics, which are part of its state."""


@pytest.fixture(scope="module")
def oracles(tmp_path_factory, small_config):
    """The run directories of the sequential engine."""
    folder = tmp_path_factory.mktemp("oracles")
    for name, settings in KINDS.items():
        train(small_config(*RUN, *settings, "engine.kind=sequential"), str(folder / name))
    return folder


@pytest.fixture
def world(small_config, tmp_path):
    """Makes a run, or goes on with the one that was made before."""
    return lambda *settings, cores=2: RealRun(small_config(*RUN, *settings), tmp_path / "run", cores)


def check_same(folder, oracle):
    """Weights, figures and counted steps are those of the sequential engine."""
    for step in RunDirectory(str(oracle)).checkpoints.steps():
        assert fingerprints(folder, step) == fingerprints(oracle, step)
    assert figures(folder) == figures(oracle)
    assert set(steps_written(folder).values()) == {24}, "every step is written once"


def figures(folder):
    accuracies = [(each.step, each.split, each.sampler, each.accuracy) for each in records_of(folder, Evaluated)]
    return accuracies, [(each.step, each.objective, each.elbo) for each in records_of(folder, ObjectiveMeasured)]


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("onehot", ["engine.workers=1", "engine.round_steps=1", "engine.prefetch=3"]),
        ("onehot", ["engine.workers=1", "engine.blocks_at_once=3", "engine.round_steps=2", "engine.sampling=worker"]),
        ("learned", ["engine.workers=2", "engine.round_steps=7", "engine.prefetch=1", "engine.sampling=worker"]),
        ("learned", ["engine.workers=3", "engine.round_steps=32"]),
        ("prototype", ["engine.workers=1", "engine.blocks_at_once=2", "engine.round_steps=1"]),
        ("ranges", ["engine.workers=1", "engine.blocks_at_once=3", "engine.round_steps=2"]),
        ("ranges", ["engine.workers=2", "engine.round_steps=7", "engine.sampling=worker"]),
        ("vit", ["engine.workers=2", "engine.blocks_at_once=2", "engine.round_steps=5"]),
        ("learned, ranges", ["engine.workers=3", "engine.round_steps=5", "engine.sampling=coordinator"]),
    ],
    ids=lambda each: each if isinstance(each, str) else ", ".join(each),
)
def test_placement_rounds_prefetch_and_who_draws_change_no_bit(oracles, world, tmp_path, kind, engine):
    end = world(*KINDS[kind], *engine, cores=3).train()
    assert (end.step, end.error, end.evaluation.final) == (24, None, True)
    check_same(tmp_path / "run", oracles / kind)


@pytest.mark.parametrize(
    ("kind", "victim"),
    [
        ("onehot", SECOND),
        ("onehot", EVALUATOR),
        ("learned", CLASSIFIER_WORKER),
        ("prototype", SECOND),
        ("ranges", SECOND),
        ("vit", SECOND),
        ("learned, ranges", CLASSIFIER_WORKER),
    ],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_worker_killed_on_the_way_changes_no_bit(oracles, world, tmp_path, kind, victim):
    run = world(*KINDS[kind], "engine.round_steps=2")
    for seconds in (0.3, 0.9):
        run.at(START_SECONDS + seconds, lambda: run.kill(victim))
    assert run.train().error is None
    assert {each.worker for each in records_of(tmp_path / "run", WorkerLost)} == {victim.name}
    assert victim == EVALUATOR or records_of(tmp_path / "run", StageRecovered)
    check_same(tmp_path / "run", oracles / kind)


@pytest.mark.parametrize("kind", ["onehot", "ranges"])
def test_rounds_that_grew_longer_on_the_way_and_a_kill_change_no_bit(oracles, world, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(run_plan, "ROUND_STEPS", {False: 1})
    monkeypatch.setattr(dispatch, "MOST_ROUNDS_PER_SECOND", 1e-6)  # rounds grow once a step's seconds are known
    run = world(*KINDS[kind], "engine.workers=2", "engine.round_steps=auto", "engine.prefetch=1")
    run.at(START_SECONDS + 0.6, lambda: run.kill(SECOND))
    assert run.train().error is None
    lengths = {each.steps for each in records_of(tmp_path / "run", RoundDone) if each.stage != CLASSIFIER}
    assert min(lengths) == 1
    assert max(lengths) > 1
    assert records_of(tmp_path / "run", StageRecovered)
    check_same(tmp_path / "run", oracles / kind)


@pytest.mark.parametrize(("kind", "seconds"), [("onehot", 5.6), ("learned", 6.15), ("prototype", 6.15)])
def test_a_run_resumed_on_other_workers_ends_with_the_same_bits(oracles, world, tmp_path, kind, seconds):
    """Its first process ends without a word; a second one is told to stop; the third goes on to the end."""
    assert world(*KINDS[kind], "engine.round_steps=1").train(seconds) is None
    run = world(*KINDS[kind], "engine.workers=3", cores=3)
    run.at(START_SECONDS + 0.2, run.stop)
    assert run.train().stopped
    assert world(*KINDS[kind], "engine.workers=1", "engine.sampling=worker").train().error is None
    check_same(tmp_path / "run", oracles / kind)


@pytest.mark.parametrize(("kind", "steps"), [("onehot", 11), ("learned", 10)])
def test_a_finished_run_that_is_made_longer_ends_with_the_same_bits(oracles, world, tmp_path, kind, steps):
    assert world(*KINDS[kind], f"training.max_steps={steps}").train().evaluation.step == steps
    end = world(*KINDS[kind]).train()
    assert (end.step, end.evaluation.final) == (24, True)
    assert fingerprints(tmp_path / "run") == fingerprints(oracles / kind)
    assert set(steps_written(tmp_path / "run").values()) == {24}, "every step is written once"


def test_averages_of_weights_have_the_same_bits_whatever_is_lost(small_config, world, tmp_path):
    train(small_config(*RUN, "training.ema_decay=0.9", "engine.kind=sequential"), str(tmp_path / "oracle"))
    run = world("training.ema_decay=0.9", "engine.round_steps=2")
    run.at(START_SECONDS + 0.9, lambda: run.kill(SECOND))
    assert run.train().error is None
    assert records_of(tmp_path / "run", StageRecovered)
    check_same(tmp_path / "run", tmp_path / "oracle")


def test_a_run_that_began_with_the_weights_of_another_ends_with_the_same_bits(oracles, small_config, world, tmp_path):
    """Its second worker is lost before block 3 has any other snapshot."""
    tuned = f"training.init_from={oracles / 'onehot'}"
    train(small_config(*RUN, tuned, "engine.kind=sequential"), str(tmp_path / "oracle"))
    run = world(tuned, "engine.round_steps=1")
    run.at(START_SECONDS + 0.1, lambda: run.kill(SECOND))
    assert run.train().error is None
    assert {each.step for each in records_of(tmp_path / "run", StageRecovered)} == {0}
    check_same(tmp_path / "run", tmp_path / "oracle")


def test_a_profile_comes_back_from_a_worker_and_changes_no_bit(oracles, world, tmp_path):
    assert world("engine.profile={block: 3, steps: 2}", "engine.round_steps=4").train().error is None
    assert (tmp_path / "run/profile/block-03.json.gz").stat().st_size > 0
    check_same(tmp_path / "run", oracles / "onehot")
