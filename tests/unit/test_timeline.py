"""What processes did from the command to the first block-step, of the records of a run."""

import pytest

from noprop_dist.bench.start import Start, phase_rows, start_rows
from noprop_dist.phases import NOTED, phase, process_began
from noprop_dist.records import Phase, RoundDone, WorkerReady, noted_phases
from noprop_dist.reporting.timeline import Span, first_block_step, timeline_of
from noprop_dist.stages import CLASSIFIER, block


def ready(worker, began, imported, time):
    where = {"incarnation": 1, "host": "h", "node_id": "n", "pid": 1, "device": "cpu"}
    return WorkerReady(worker=worker, began=began, imported=imported, time=time, **where)


def round_done(stage, worker, time, seconds=2.0, steps=4):
    figures = {"loss": 0.1, "error": 0.1, "gradient_norm": 0.1}
    return RoundDone(
        stage=stage, first_step=0, steps=steps, step=steps, seconds=seconds, worker=worker, time=time, **figures
    )


RECORDS = [
    ready("coordinator", 102.0, 104.0, 105.0),
    Phase(process="driver", name="start of Ray", began=100.0, seconds=2.0, time=105.0),
    ready("block worker 1", 105.5, 107.0, 107.5),
    round_done(CLASSIFIER, "classifier worker", 108.0, seconds=0.1),
    round_done(block(1), "block worker 1", 110.0),
    ready("evaluator", 109.0, 110.0, 111.0),
]


def test_a_timeline_begins_with_the_first_process_and_ends_with_the_first_block_step():
    assert first_block_step(RECORDS) == 108.5, "a quarter of the two seconds of its round of four"
    assert timeline_of(RECORDS) == [
        Span("driver", "start of Ray", 0.0, 2.0),
        Span("coordinator", "imports", 2.0, 4.0),
        Span("coordinator", "until it is ready", 4.0, 5.0),
        Span("block worker 1", "imports", 5.5, 7.0),
        Span("block worker 1", "until it is ready", 7.0, 7.5),
        Span("classifier worker", "first round of classifier", pytest.approx(7.9), 8.0),
        Span("block worker 1", "first round of block 1", 8.0, 10.0),
        Span("run", "first block-step", 8.5, 8.5),
    ]


def test_a_run_before_its_first_round_has_a_timeline_and_no_first_step():
    assert first_block_step(RECORDS[:3]) is None
    assert [span.phase for span in timeline_of(RECORDS[:1])] == ["imports", "until it is ready"]
    assert timeline_of([]) == []


def test_a_process_that_was_forked_has_imported_nothing_itself():
    assert timeline_of([ready("block worker 1", 106.0, 103.0, 107.5)]) == [
        Span("block worker 1", "until it is ready", 0.0, 1.5)
    ]


def test_a_process_on_a_system_that_does_not_tell_its_beginning_has_no_row():
    assert timeline_of([ready("block worker 1", 0.0, 107.0, 107.5)]) == []


def test_a_process_notes_its_phases_and_hands_them_over_once():
    NOTED.clear()
    with phase("checks"):
        pass
    (noted,) = noted_phases("driver")
    assert (noted.process, noted.name) == ("driver", "checks")
    assert process_began() < noted.began
    assert noted_phases("driver") == ()


def test_the_benchmark_of_the_start_has_a_row_for_each_phase_of_each_process():
    starts = [
        Start(4.0, 9.0, [Span("driver", "imports", 0.0, 1.0), Span("block worker 1", "imports", 2.0, 3.0)]),
        Start(6.0, 8.0, [Span("driver", "imports", 0.0, 2.0)]),
    ]
    assert [(row.until, row.median.median) for row in start_rows(starts)] == [
        ("first block-step", 5.0),
        ("result", 8.5),
    ]
    rows = [(row.process, row.phase, row.began, row.ended, row.runs) for row in phase_rows(starts)]
    assert rows == [("driver", "imports", 0.0, 1.5, 2), ("block worker 1", "imports", 2.0, 3.0, 1)]
