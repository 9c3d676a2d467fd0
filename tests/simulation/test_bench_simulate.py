"""`noprop-dist bench simulate`: what it shows, and how a failure is repeated."""

import json
import os
import signal

import pytest

from noprop_dist.cli.app import main
from noprop_dist.simulation.faults import KINDS
from noprop_dist.simulation.scenario import Size, draw_scenario
from noprop_dist.simulation.schedule import Schedule
from noprop_dist.simulation.simulation import Simulation

SMALL = ("--blocks", "2", "--rounds", "4", "--faults", "4")


def simulate(capsys, *arguments):
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", "simulate", *arguments])
    return ended.value.code, *capsys.readouterr()


@pytest.fixture
def seed_1_fails(monkeypatch):
    """The run of seed 1 violates something as soon as a second passed."""
    made = Simulation.__init__

    def init(self, scenario):
        made(self, scenario)
        if scenario.seed == 1:
            self.world.at(1.0, lambda: self.violate("step 7 is lost"))

    monkeypatch.setattr(Simulation, "__init__", init)


def test_it_shows_each_kind_of_fault_with_how_often_it_struck(capsys):
    code, output, _ = simulate(capsys, "--runs", "5", *SMALL, "--json")
    told = json.loads(output)
    assert code == 0
    assert [row["fault"] for row in told["rows"]] == list(KINDS)
    assert all(row["struck"] >= row["runs"] for row in told["rows"])
    assert (told["runs"], told["failures"]) == (5, [])
    assert told["drivers"] >= 5
    assert told["runs_per_hour"] > 0


def test_the_summary_has_runs_per_hour_and_virtual_hours(capsys):
    code, output, _ = simulate(capsys, "--runs", "2", *SMALL)
    assert code == 0
    assert output.splitlines()[-1].startswith("2 runs, ")
    assert "runs/hour, 0 failed; " in output
    assert output.endswith("virtual hours\n")


def test_a_failing_seed_is_told_with_its_schedule_and_the_command_that_repeats_it(capsys, seed_1_fails, tmp_path):
    code, output, errors = simulate(capsys, "--runs", "3", *SMALL)
    command = "noprop-dist bench simulate --runs 1 --seed 1 --blocks 2 --rounds 4 --faults 4"
    assert code == 1
    assert "step 7 is lost (at 1.00 s" in output
    assert f"repeat it with: {command}\n" in output
    assert f"repeat it with: {command}\n" in errors
    assert "seed 1, stored on a disk, on nodes of 2 cores" in output
    assert "3 runs" in output.splitlines()[-1]
    schedule = output.partition("as a file for --schedule: ")[2].splitlines()[0]
    (tmp_path / "found.json").write_text(schedule)
    assert simulate(capsys, "--schedule", str(tmp_path / "found.json"))[0] == 1
    assert simulate(capsys, *command.split()[3:])[0] == 1


def test_a_failing_schedule_is_repeated_by_its_file(capsys, seed_1_fails, tmp_path):
    (tmp_path / "found.json").write_text(Schedule("", "", draw_scenario(1, Size(1, 2, 0), {"": 1.0})).to_json())
    code, output, _ = simulate(capsys, "--schedule", str(tmp_path / "found.json"))
    assert code == 1
    assert f"repeat it with: noprop-dist bench simulate --schedule {tmp_path / 'found.json'}\n" in output


def test_a_trace_shows_all_that_happens(capsys, seed_1_fails):
    code, output, _ = simulate(capsys, "--runs", "1", "--seed", "2", "--trace", *SMALL)
    assert code == 0
    assert "RunEnded(" in output
    code, output, _ = simulate(capsys, "--runs", "1", "--seed", "1", "--trace", *SMALL)
    assert code == 1
    assert output.splitlines()[-1].startswith("violation: step 7 is lost")


def test_ctrl_c_shows_what_was_done(capsys, monkeypatch):
    run = Simulation.run

    def run_and_interrupt(self):
        if self.scenario.seed == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return run(self)

    monkeypatch.setattr(Simulation, "run", run_and_interrupt)
    code, output, errors = simulate(capsys, "--runs", "1000", *SMALL)
    assert code == 128 + signal.SIGINT
    assert output.splitlines()[-1].startswith("3 runs, ")
    assert "ending after this run" in errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trace"], "--trace: shows one run as text; give --runs 1 or --schedule"),
        (["--trace", "--runs", "1", "--json"], "--trace: shows one run as text"),
        (["--exhaustive", "--schedule", "x.json"], "--schedule x.json: is one run, and --exhaustive are many"),
        (["--schedule", "x.json"], "x.json: there is no such file"),
        (["--schedule", "x.json", "--runs", "5"], "--runs: is of random runs, and with --schedule none is"),
        (["--exhaustive", "--seed", "3"], "--seed: is of random runs, and with --exhaustive none is"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_sentence(capsys, arguments, sentence):
    code, _, errors = simulate(capsys, *arguments)
    assert code == 2
    assert f"noprop-dist: {sentence}" in errors
    assert errors.count("\n") == 1


KILLED = {"kind": "block worker killed", "seconds": 5.0, "pick": 1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"faults": [{**KILLED, "kind": "flood"}]}, "scenario.faults.0.kind: there is no kind of fault 'flood'"),
        ({"faults": [{**KILLED, "victm": "driver"}]}, "scenario.faults.0.victm: unexpected"),
        ({"faults": [{**KILLED, "victim": "driver"}]}, "scenario.faults.0.victim: 'driver' is killed at a turn"),
        ({"faults": [{**KILLED, "victim": "driver", "point": 3}]}, "scenario.faults.0.point: only a coordinator has"),
        ({"faults": [{**KILLED, "seconds": 1e300}]}, "scenario.faults.0.seconds: 1e+300 is not from 0 to 100,000"),
        ({"nodes": []}, "scenario.nodes: at least one machine is needed"),
        ({"nodes": [[0, 0]]}, "scenario.nodes: at least one machine is needed"),
        ({"turn_seconds": 1e300}, "scenario.turn_seconds: 1e+300 is not from 0 to 10"),
        ({"settings": ["data.root=/etc"]}, "scenario.settings: 'data.root=/etc' is no part of a simulation"),
        ({"settings": ["training.init_from=/etc"]}, "scenario.settings: 'training.init_from=/etc' is no part of"),
        ({"settings": ["engine.address=a:1"]}, "scenario.settings: 'engine.address=a:1' is no part of a simulation"),
        ({"settings": ["blocks.count=10000"]}, "scenario.settings: at most 100 blocks and 100,000 steps are simulated"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_schedule_that_cannot_be_meant_or_reaches_out_of_a_simulation_is_refused(capsys, tmp_path, change, sentence):
    scenario = {"seed": 0, "settings": ["training.max_steps=8"], **change}
    (tmp_path / "x.json").write_text(json.dumps({"name": "a", "wrong": "", "scenario": scenario}))
    code, _, errors = simulate(capsys, "--schedule", str(tmp_path / "x.json"))
    assert code == 2
    assert f"x.json: {sentence}" in errors


def test_a_fault_of_a_schedule_that_finds_nothing_to_hit_is_told(capsys, tmp_path):
    fault = {**KILLED, "turn": 3, "victim": "block worker 99"}
    scenario = {"seed": 0, "settings": ["training.max_steps=8"], "faults": [fault]}
    (tmp_path / "x.json").write_text(json.dumps({"name": "a", "wrong": "", "scenario": scenario}))
    code, _, errors = simulate(capsys, "--schedule", str(tmp_path / "x.json"))
    assert code == 0
    assert "1 of 1 faults found nothing to hit" in errors
