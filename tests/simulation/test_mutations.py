"""Each way in which the engine was broken by hand is found by the simulator: one small run each that shows it.

`mutations/` has these runs. Each was found by random faults or by the death of a process at some moment, and shrunk.
"""

from pathlib import Path
from unittest.mock import patch

import pytest
from mutations import HARMLESS, MUTATIONS

from noprop_dist.simulation import simulation
from noprop_dist.simulation.campaign import outcome_of
from noprop_dist.simulation.schedule import read_schedule
from noprop_dist.simulation.shrink import kind_of

FOLDER = Path(__file__).parent / "mutations"
FOUND = [name for name in MUTATIONS if name not in HARMLESS]
LONGEST_SECONDS = 300.0
"""For a small run to come to its end; a whole one has ten times as long."""


def file_of(name):
    return FOLDER / f"{name.replace(' ', '-')}.json"


@pytest.mark.parametrize("name", FOUND, ids=lambda name: name.replace(" ", "-"))
def test_the_simulator_finds_the_engine_broken(name):
    schedule = read_schedule(file_of(name))
    with patch.object(simulation, "LONGEST_SECONDS", LONGEST_SECONDS):
        assert outcome_of(schedule.scenario).violations == []
        with MUTATIONS[name].made():
            found = outcome_of(schedule.scenario).violations
    assert [kind_of(each) for each in found[:1]] == [kind_of(schedule.wrong)]


def test_each_mutation_is_found_or_said_to_be_harmless():
    assert {file.name for file in FOLDER.iterdir()} == {file_of(name).name for name in FOUND}
    assert MUTATIONS.keys() >= HARMLESS.keys()
