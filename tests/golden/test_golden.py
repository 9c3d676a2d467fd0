"""Short runs go as they did when they were pinned; README.md says when to pin them anew."""

import fixture_files
import pytest
from comparison import differences
from runs import RUNS, train

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


@pytest.mark.parametrize("run", ["small-conv", "learned", "radial", "uneven-batches"])
def test_a_range_of_noise_levels_of_width_0_is_noprop_dt_to_the_last_bit(run, outcome_of):
    of_width_0 = train([*RUNS[run], "blocks.noise={kind: range, width: 0, overlap: 0.1}"])
    assert differences(fixture_files.read(run), of_width_0) == []
    assert of_width_0.fingerprints == outcome_of(run).fingerprints


def test_every_fixture_belongs_to_a_run():
    assert fixture_files.pinned_runs() == set(RUNS)
