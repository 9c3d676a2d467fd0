"""What real Ray did to the engine, as `traces/record.py` recorded it: it shows these patterns and breaks no rule."""

from pathlib import Path

import pytest
from patterns import PATTERNS, broken_rules, patterns
from turns import read_trace

TRACES = {file.stem: file for file in sorted((Path(__file__).parent / "traces").glob("*.jsonl"))}
NEVER_SEEN = set()
SHOWN = {}


@pytest.mark.parametrize("name", TRACES)
def test_a_real_run_breaks_no_rule(name):
    assert broken_rules(read_trace(TRACES[name])) == []


@pytest.mark.parametrize("name", TRACES)
def test_a_real_run_shows_the_patterns_that_are_written_down_for_it(name):
    assert patterns(read_trace(TRACES[name])) == SHOWN[name]


def test_every_pattern_is_shown_by_some_real_run():
    assert set().union(*SHOWN.values()) == set(PATTERNS) - NEVER_SEEN
