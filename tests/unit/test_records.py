"""Lines of metrics.jsonl: every record survives them, old ones are read, and what cannot be read is left alone."""

import json

import pytest

from noprop_dist.records import (
    TYPES,
    CheckpointCompleted,
    EmbeddingUpdated,
    Evaluated,
    News,
    ObjectiveMeasured,
    Phase,
    RoundDone,
    RunEnded,
    SnapshotWritten,
    StageFailed,
    StageRecovered,
    UnreadLine,
    WorkerLost,
    WorkerReady,
    complete_lines,
    from_line,
    is_damaged,
    to_line,
    to_lines,
)
from noprop_dist.stages import CLASSIFIER, NETWORK, block

RECORDS = [
    WorkerReady(worker="block worker 2", incarnation=1, host="node", node_id="ab", pid=7, device="cuda:0",
                replica_pids=(8, 9), time=1.5),
    RoundDone(stage=block(3), first_step=4, steps=4, step=8, loss=0.5, error=0.25, gradient_norm=2.0, seconds=0.125,
              peak_memory_bytes=2**40, worker="block worker 2", queue_seconds=0.5, time=2.0),
    RoundDone(stage=NETWORK, first_step=0, steps=1, step=1, loss=1e-9, error=1e300, gradient_norm=0.1, seconds=0.0),
    EmbeddingUpdated(first_step=0, steps=4, step=4, mean_norm=1.0, least_distance=1.4, gradient_norm=0.1, seconds=0.2),
    SnapshotWritten(stage=CLASSIFIER, step=4, bytes=10, seconds=0.01, time=3.0),
    Evaluated(step=4, final=True, split="test", accuracy=0.1 + 0.2, nearest_embedding_accuracy=0.5, sampler="mean",
              passes=1, samples=359),
    ObjectiveMeasured(step=4, final=True, split="validation", cross_entropy=1.0, kl=0.1, squared_errors=(0.1, 0.2),
                      denoising_terms=(0.3, 0.4), denoising=0.7, objective=1.8, elbo=-1.8),
    Phase(process="driver", name="start of Ray", began=1.25, seconds=2.5, time=4.0),
    News(text='a "quoted"\nline of é', time=4.0),
    WorkerLost(worker="evaluator", incarnation=2, cause="OOM", reason="hung", at_work_on=block(1)),
    WorkerLost(worker="evaluator", incarnation=3, cause="node is gone"),
    StageRecovered(stage=block(1), worker="block worker 1", incarnation=2, seconds=3.0, step=4, replayed_steps=2),
    StageFailed(stage=block(12), step=0, cause="NaN", trace="Traceback …"),
    CheckpointCompleted(step=8, time=5.0),
    RunEnded(step=8, stopped=True),
    RunEnded(step=4, error="block 3 was stopped"),
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_its_line(record):
    line = to_line(record)
    assert "\n" not in line
    assert from_line(line) == record
    assert json.loads(line)["kind"] == type(record).KIND


def test_every_kind_of_record_is_tried_above():
    assert {type(record) for record in RECORDS} == set(TYPES.values())


def test_files_are_lines_and_a_last_one_that_was_cut_off_is_left_out():
    content = to_lines(RECORDS)
    assert [from_line(line) for line in complete_lines(content)] == RECORDS
    assert [from_line(line) for line in complete_lines(content[:-1])] == RECORDS[:-1]


def test_lines_that_name_stages_by_strings_are_read():
    """As they were written before 2026-11-26."""
    numbers = {"first_step": 0, "steps": 4, "loss": 1.5, "error": 0.5, "gradient_norm": 1.0, "seconds": 0.1}
    old = {"kind": "round", "stage": "block 3", **numbers, "step": 4, "peak_memory_bytes": 9, "time": 7.0}
    expected = RoundDone(stage=block(3), step=4, peak_memory_bytes=9, time=7.0, **numbers)
    assert from_line(json.dumps(old)) == expected
    assert from_line(json.dumps(old | {"stage": "classifier"})).stage == CLASSIFIER
    assert from_line(json.dumps(old | {"stage": "network"})).stage == NETWORK
    lost = {"kind": "lost", "worker": "block worker 1", "incarnation": 1, "cause": "killed", "time": 7.0}
    assert from_line(json.dumps(lost | {"at_work_on": "block 2"})).at_work_on == block(2)
    assert from_line(json.dumps(lost | {"at_work_on": None})).at_work_on is None


def test_a_round_of_w_embed_is_read_as_an_update_of_it():
    """Its loss was the mean length of a class embedding, and its error the least distance of two."""
    old = {"kind": "round", "stage": "embedding", "first_step": 0, "steps": 4, "step": 4, "loss": 1.0, "error": 1.4,
           "gradient_norm": 0.1, "seconds": 0.2, "peak_memory_bytes": 0, "time": 7.0}  # fmt: skip
    update = from_line(json.dumps(old))
    assert isinstance(update, EmbeddingUpdated)
    assert (update.mean_norm, update.least_distance, update.step) == (1.0, 1.4, 4)


def test_fields_that_a_later_version_adds_are_passed_over():
    line = json.dumps({"kind": "news", "text": "hello", "time": 1.0, "colour": "red"})
    assert from_line(line) == News(text="hello", time=1.0)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "3",
        '{"time": 1.0}',
        '{"kind": "news"}',
        '{"kind": "news", "text": 3}',
        '{"kind": "round", "stage": "block 1", "first_step": 0, "steps": 4, "step": "4", "loss": 1, "error": 1, '
        '"gradient_norm": 1, "seconds": 1}',
        '{"kind": "round", "stage": "block 1", "first_step": 0, "steps": 4, "step": 9, "loss": 1, "error": 1, '
        '"gradient_norm": 1, "seconds": 1}',
        '{"kind": "round", "stage": "adapter 3", "step": 4}',
        '{"kind": "snapshot", "stage": "adapter 1", "stage_id": ["adapter", 1], "step": 4, "bytes": 1, "seconds": 1}',
    ],
)
def test_what_cannot_be_read_is_kept_as_it_stands(line):
    record = from_line(line)
    assert record == UnreadLine(line=line)
    assert is_damaged(record)
    assert to_line(record) == line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", 10**400),
        ("step", 2**63),
        ("kl", 10**400),
        *[("squared_errors", [each]) for each in ("x", None, 10**400)],
    ],
)
def test_a_number_that_no_plot_can_show_is_damage(key, value):
    (record,) = [each for each in RECORDS if isinstance(each, ObjectiveMeasured)]
    assert is_damaged(from_line(json.dumps({**json.loads(to_line(record)), key: value})))


@pytest.mark.parametrize("accuracy", [1e300, -3, 1.0000001])
@pytest.mark.parametrize("key", ["accuracy", "nearest_embedding_accuracy"])
def test_an_accuracy_that_is_no_fraction_is_damage(key, accuracy):
    record = next(each for each in RECORDS if isinstance(each, Evaluated))
    assert is_damaged(from_line(json.dumps({**json.loads(to_line(record)), key: accuracy})))


def test_a_line_of_a_later_version_is_not_damaged():
    line = '{"kind": "of a later version"}'
    assert from_line(line) == UnreadLine(line=line, damaged=False)
