"""Short runs go as they did when they were pinned; README.md says when to pin them anew."""

import fixture_files
import pytest
from comparison import differences
from runs import RUNS

# Those of the preset take half of the time, and a smaller one guards each thing that they train.
EACH_RUN = [pytest.param(run, marks=pytest.mark.slow if run.startswith("digits-") else ()) for run in RUNS]


@pytest.mark.parametrize("run", EACH_RUN)
def test_losses_and_decisions_are_the_pinned_ones(run, outcome_of, rewriting, report):
    now = outcome_of(run)
    if rewriting:
        report(fixture_files.rewrite(run, now))
    assert differences(fixture_files.read(run), now) == []


@pytest.mark.parametrize("run", EACH_RUN)
def test_weights_have_the_pinned_bits_on_a_known_kind_of_machine(run, outcome_of):
    pinned = fixture_files.read_fingerprints(run)
    if pinned is None:
        pytest.skip(
            f"no fingerprints of {run} for {fixture_files.machine_kind()}; where the losses are the pinned ones, "
            "`pytest tests/golden --rewrite-golden` adds them"
        )
    assert outcome_of(run).fingerprints == pinned


def test_every_fixture_belongs_to_a_run():
    assert fixture_files.pinned_runs() == set(RUNS)
