"""Whole runs of the shipped engine in a simulated world: from a seed, with faults at random and at every moment."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import noprop_dist
from noprop_dist.errors import UserError
from noprop_dist.simulation.campaign import Failure, Totals, campaign, outcome_of
from noprop_dist.simulation.exhaustive import SHORT, Short, every_death
from noprop_dist.simulation.faults import KINDS, WEIGHTS
from noprop_dist.simulation.scenario import Fault, Size, draw_scenario
from noprop_dist.simulation.schedule import Schedule, course_of, read_schedule
from noprop_dist.simulation.shrink import kind_of, shrink
from noprop_dist.simulation.simulation import Simulation
from noprop_dist.storage.metrics_files import MetricsFiles

LEFT_OUT: tuple[str, ...] = ()
"""Kinds of fault that are not drawn, because of a fault that is not mended yet. To be kept empty."""
SURVIVED = {**WEIGHTS, **dict.fromkeys(LEFT_OUT, 0.0)}
QUICK_RUNS, SLOW_RUNS, CHUNKS = 120, 2200, 8
SMALL = Size(blocks=4, rounds=20)
PACKAGE = Path(noprop_dist.__file__).parent
REGRESSIONS = sorted(Path(__file__).parent.glob("regressions/*.json"))


def none_fails(scenarios):
    """Simulate all; return the totals."""
    totals = Totals()
    campaign(scenarios, totals, print)
    assert [(each.scenario.seed, each.scenario.faults, each.violation) for each in totals.failures] == []
    return totals


def random_runs(chunk, runs, size):
    """A chunk of the runs of seeds from 0."""
    return none_fails(draw_scenario(seed, size, SURVIVED) for seed in range(chunk, runs, CHUNKS))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_run_loses_a_bit_whatever_strikes_it(chunk):
    totals = random_runs(chunk, QUICK_RUNS, Size())
    assert totals.runs == QUICK_RUNS // CHUNKS
    assert totals.struck.total() > 2 * totals.runs


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_none_of_thousands_of_runs_loses_a_bit(chunk):
    totals = random_runs(chunk, SLOW_RUNS, SMALL)
    assert len(totals.struck) > len(KINDS) - len(LEFT_OUT) - 4, "nearly every kind struck"


@pytest.mark.parametrize("short", SHORT, ids=lambda short: short.name)
def test_a_short_run_survives_the_death_of_each_process_at_some_moments(short):
    none_fails(list(every_death(Short(2, 2, short.learned, short.store)))[::61])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("short", SHORT, ids=lambda short: short.name)
def test_a_short_run_survives_the_death_of_each_process_at_one_moment_in_seven(short):
    """All of them: `noprop-dist bench simulate --exhaustive`."""
    none_fails(list(every_death(Short(2, 3, short.learned, short.store)))[::7])


def test_every_process_and_machine_dies_at_every_event_at_which_it_is_there():
    deaths = [fault for scenario in every_death(Short(1, 1)) for fault in scenario.faults]
    names = {"block worker 1", "classifier worker", "evaluator", "node-1", "node-2", "driver"}
    assert {fault.victim for fault in deaths} >= names | {"coordinator 1", "coordinator 2"}
    points = [fault.point for fault in deaths if fault.victim == "coordinator 2"]
    assert points == list(range(1, len(points) + 1))
    assert {fault.kind for fault in deaths} <= set(KINDS)


@pytest.mark.parametrize("file", REGRESSIONS, ids=lambda file: file.stem)
def test_what_was_wrong_once_is_right_now(file):
    schedule = read_schedule(file)
    assert outcome_of(schedule.scenario).violations == [], schedule.wrong


# A seed names one course of events


def course(seed, size=None, kinds=None):
    """All that happens in the run of a seed, and the files that it leaves, as one hash each."""
    simulation, lines = Simulation(draw_scenario(seed, size or Size(), kinds or SURVIVED)), []
    simulation.trace = lines.append
    outcome = simulation.run()
    simulation.world.close()
    store = simulation.storage.undisturbed()
    folders = [f"checkpoints/{name}" for name in store.names("checkpoints")]
    files = [f"{folder}/{name}" for folder in folders for name in store.names(folder)]
    found = [*((file, store.read(file)) for file in files), *MetricsFiles(store).contents()]
    contents = [(file, hashlib.sha256(content).hexdigest()) for file, content in found]
    told = [hashlib.sha256(repr(part).encode()).hexdigest() for part in (lines, sorted(contents))]
    return [outcome.turns, outcome.seconds, outcome.lives, outcome.coordinators, outcome.errors, *told]


def test_a_seed_gives_the_same_course_again():
    first = [course(seed) for seed in range(3)]
    assert [course(seed) for seed in reversed(range(3))] == first[::-1]


@pytest.mark.slow
def test_a_seed_gives_the_same_course_in_another_process():
    ask = "import json, test_simulated_campaigns as t; print(json.dumps([t.course(seed) for seed in range(5)]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    told = [
        subprocess.run(
            [sys.executable, "-c", ask],
            env={**environment, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert json.loads(told[0]) == json.loads(told[1]) == [course(seed) for seed in range(5)]


def test_the_settings_of_one_seed_are_its_own():
    first, second = (draw_scenario(seed, Size(), WEIGHTS) for seed in (1, 2))
    assert first == draw_scenario(1, Size(), WEIGHTS) != second


# What runs is what ships


def attributes():
    """All that the shipped modules and their classes have, but for the simulation itself."""
    shipped = [
        module
        for name, module in sys.modules.items()
        if name.startswith("noprop_dist.") and not name.startswith("noprop_dist.simulation")
    ]
    found = {(module.__name__, name): value for module in shipped for name, value in vars(module).items()}
    classes = {value for value in found.values() if isinstance(value, type) and value.__module__.startswith("noprop_")}
    inner = {(each.__qualname__, name): value for each in classes for name, value in vars(each).items()}
    return {name: value for name, value in (found | inner).items() if callable(value) or isinstance(value, property)}


def test_a_simulation_runs_the_shipped_modules_and_changes_none_of_them():
    outcome_of(draw_scenario(0, Size(2, 4, 0), WEIGHTS))
    before = attributes()
    assert outcome_of(draw_scenario(3, Size(), WEIGHTS)).violations == []
    after = attributes()
    assert {name for name in before if after.get(name) is not before[name]} == set()
    for name, module in list(sys.modules.items()):
        if name.startswith("noprop_dist."):
            path = PACKAGE.joinpath(*name.split(".")[1:])
            assert Path(module.__file__) in (path.with_suffix(".py"), path / "__init__.py")


def test_the_simulation_needs_no_ray():
    script = (
        "import sys, pkgutil, importlib; sys.modules['ray'] = None\n"
        "import noprop_dist.simulation as package\n"
        "for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "from noprop_dist.simulation.campaign import outcome_of\n"
        "from noprop_dist.simulation.scenario import Size, draw_scenario\n"
        "assert outcome_of(draw_scenario(0, Size(2, 4, 0), {'stop asked for': 1.0})).violations == []\n"
        "assert not any(name.startswith('noprop_dist.engines.ray') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Campaigns


def test_a_run_that_raises_is_a_failure_of_its_seed_and_ends_nothing(monkeypatch):
    scenarios = [draw_scenario(seed, Size(1, 2, 0), WEIGHTS) for seed in range(3)]
    run = Simulation.run
    monkeypatch.setattr(Simulation, "run", lambda self: 1 / 0 if self.scenario.seed == 1 else run(self))
    totals = Totals()
    campaign(scenarios, totals, print)
    assert totals.runs == 3
    assert [(each.scenario.seed, each.violation) for each in totals.failures] == [
        (1, "ZeroDivisionError: division by zero (test_simulated_campaigns.py, <lambda>)")
    ]


def test_a_campaign_ends_after_the_run_in_which_it_is_told_to():
    totals = Totals()
    seeds = (draw_scenario(seed, Size(1, 2, 0), WEIGHTS) for seed in range(100))
    campaign(seeds, totals, print, stopped=lambda: totals.runs == 2)
    assert totals.runs == 2


# Shrinking


FAULTS = tuple(Fault("block worker killed", float(n), n) for n in range(20))


def shrunk(needed, **limits):
    """A scenario of 20 faults that fails with those needed, shrunk."""
    scenario = draw_scenario(5, Size(), WEIGHTS).with_faults(FAULTS)

    def violation_of(scenario):
        picks = {fault.pick for fault in scenario.faults}
        if "blocks.count=1" in scenario.settings:
            return "something else is wrong"
        return f"step {len(picks)} is lost (at 3.00 s, turn 4)" if needed <= picks else None

    return shrink(Failure(scenario, violation_of(scenario)), violation_of=violation_of, **limits)


@pytest.mark.parametrize("needed", [set(), {3}, {0, 19}, {2, 3, 11}, {1, 5, 9, 13, 17}])
def test_a_failure_is_shrunk_to_the_faults_that_it_takes(needed):
    found = shrunk(needed)
    assert {fault.pick for fault in found.failure.scenario.faults} == needed
    assert found.is_minimal
    assert found.tries < 120


def test_settings_are_as_plain_as_the_same_failure_allows():
    settings = shrunk({3}).failure.scenario.settings
    assert {"blocks.count=2", "engine.workers=1", "embedding={kind: onehot}"} <= set(settings)


def test_shrinking_ends_when_its_tries_are_used_up():
    found = shrunk({3, 11}, tries=7)
    assert (found.tries, found.is_minimal) == (7, False)
    assert {3, 11} <= {fault.pick for fault in found.failure.scenario.faults}


def test_two_violations_are_of_one_kind_if_only_numbers_and_settings_differ():
    assert kind_of("block-04: step 12 (at 3.20 s, turn 7)") == kind_of("block-11: step 8 (at 110.00 s, turn 1234)")
    assert kind_of("trained with a.b=1, not a.b=2") == kind_of("trained with c=null, not c=1")
    assert kind_of("block-04: step 12") != kind_of("classifier: step 12")


# Schedules


def test_a_schedule_is_the_same_scenario_after_a_file(tmp_path):
    schedule = Schedule("a name", "what was wrong.", draw_scenario(7, Size(), WEIGHTS))
    (tmp_path / "schedule.json").write_text(schedule.to_json())
    assert read_schedule(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda it: it.pop("scenario"), "scenario: field required"),
        (lambda it: it["scenario"].update(store="tape"), "scenario.store: input should be 'disk' or 'bucket'"),
        (lambda it: it["scenario"].update(settings=["blocks.count=0"]), "blocks.count"),
        (lambda it: it["scenario"]["faults"][0].update(kind="rain"), "faults.0.kind: there is no kind of fault 'rain'"),
    ],
)
def test_a_file_that_is_no_schedule_is_told_in_one_sentence(tmp_path, change, sentence):
    values = json.loads(Schedule("", "", draw_scenario(7, Size(), WEIGHTS).with_faults(FAULTS)).to_json())
    change(values)
    (tmp_path / "schedule.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="schedule.json: ") as told:
        read_schedule(tmp_path / "schedule.json")
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


def test_the_course_of_a_run_names_what_is_hit_and_when():
    scenario = draw_scenario(0, Size(2, 50, 0), WEIGHTS).with_faults([Fault("block worker killed", 9.5, 1)])
    lines, outcome = course_of(scenario)
    assert outcome.violations == []
    assert any(line.startswith("     9.50  FAULT block worker killed: block worker ") for line in lines)
    assert any("WorkerLost" in line for line in lines)
