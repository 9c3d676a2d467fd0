"""A merge that is interrupted at any of its storage operations can be repeated, and gives the bits of the whole run."""

import pytest

from noprop_dist.simulation.merging import InterruptedMerges

SETTINGS = ("blocks.count=3", "training.max_steps=24", "checkpoint.every_steps=12", "checkpoint.snapshot_every_steps=6",
            "engine.round_steps=4", "evaluation.samples=0")  # fmt: skip


@pytest.mark.parametrize(("store", "ending"), [("disk", "the process dies"), ("disk", "the disk is full"),
                                               ("bucket", "the process dies")])  # fmt: skip
def test_a_merge_that_was_interrupted_anywhere_is_repeated_and_is_whole(store, ending):
    tried = list(InterruptedMerges(SETTINGS, store).at_every_point(ending, every=4))
    assert len(tried) > 9
    assert [each for each in tried if each[1] is not None] == []
