"""A stage's one identity, and all that follows from it."""

import pytest

from noprop_dist.stages import CLASSIFIER, EMBEDDING, NETWORK, block

T = 12


@pytest.mark.parametrize(
    ("stage", "name", "label", "file", "number"),
    [
        (block(3), "block 3", "3", "block-03", 3),
        (block(12), "block 12", "12", "block-12", 12),
        (CLASSIFIER, "classifier", "classifier", "classifier", 13),
        (EMBEDDING, "embedding", "embedding", "embedding", 14),
        (NETWORK, "network", "network", "network", 1),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_names_labels_files_and_numbers_follow_from_kind_and_index(stage, name, label, file, number):
    assert (stage.name, stage.label, stage.file(T), stage.number(T)) == (name, label, file, number)


def test_names_of_files_sort_as_blocks_do_however_many_there_are():
    files = [block(t).file(120) for t in (1, 20, 120)]
    assert files == sorted(files) == ["block-001", "block-020", "block-120"]


def test_stages_sort_as_a_table_shows_them():
    assert sorted([EMBEDDING, block(10), CLASSIFIER, block(2)]) == [block(2), block(10), CLASSIFIER, EMBEDDING]


def test_only_blocks_are_blocks():
    assert [stage.is_block for stage in (block(1), CLASSIFIER, EMBEDDING, NETWORK)] == [True, False, False, False]


def test_equal_stages_are_one_key():
    assert {block(3): "a"}[block(3)] == "a"
    assert block(3) != block(4)
