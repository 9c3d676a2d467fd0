"""What is refused before a run begins, what people are told of it, and what no machine can be found for."""

import pytest
from scripted_runs import LEARNED, START_SECONDS, ScriptedRun

from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, Slot
from noprop_dist.errors import UserError
from noprop_dist.records import News, WorkerLost
from noprop_dist.stages import CLASSIFIER, block

FIRST, SECOND = Slot("block worker", 1), Slot("block worker", 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["engine.device=cuda"], "engine.device=cuda: there is no GPU here"),
        ([LEARNED, "engine.blocks_per_worker=1"], "engine.blocks_per_worker=1: 2 worker(s) hold 2 of 3 blocks"),
        (["engine.threads_per_worker=2"], "engine.threads_per_worker=2: no machine here has more than 1 core"),
        (["blocks.count=50", "engine.workers=50"], "50 processes would share 2 cores, at most 16 may share one"),
    ],
    ids=["no GPU", "too few workers", "too many threads", "too many processes"],
)
def test_a_run_that_cannot_begin_here_is_refused_and_leaves_nothing_behind(settings, sentence):
    run = ScriptedRun(*settings)
    with pytest.raises(UserError) as refused:
        run.train()
    assert sentence in str(refused.value)
    assert not run.storage.undisturbed().exists("")


@pytest.mark.parametrize(
    ("settings", "cluster", "reason"),
    [
        (["engine.sampling=coordinator"], {}, "by the coordinator, as asked for"),
        (["engine.sampling=worker"], {}, "by the workers, as asked for"),
        (["training.batch_size=4096"], {}, "by the workers: it takes"),
        (["blocks.count=5"], {"gpus": 3}, "by the workers: one process cannot keep up with 5"),
        ([], {}, "by the workers: the coordinator has no core to itself"),
        (["engine.workers=1"], {}, "by the coordinator"),
    ],
    ids=["coordinator", "workers", "large batches", "many GPUs", "no core left", "a core left"],
)
def test_people_are_told_who_draws(settings, cluster, reason):
    run = ScriptedRun("engine.sampling=auto", *settings, **cluster)
    assert run.train().error is None
    assert any(each.text.partition("; z is drawn ")[2].startswith(reason) for each in run.records_of(News))


def test_a_run_whose_gpus_are_all_gone_waits_for_them_and_does_not_go_on_without():
    run, taken = ScriptedRun("engine.workers=2", gpus=1), []

    def lose_gpus():
        taken.extend((node, node.gpus) for node in run.nodes)
        for node in run.nodes:
            node.gpus = 0
        run.kill(FIRST)
        run.kill(SECOND)

    def return_gpus():
        for node, gpus in taken:
            node.gpus = gpus
        run.cluster.fill()

    run.at(START_SECONDS + 1, lose_gpus)
    run.at(START_SECONDS + 30, return_gpus)
    assert run.train().error is None
    assert run.fingerprints() == run.expected.fingerprints(48)
    assert len(run.records_of(WorkerLost)) == 2


# Processes whose constructors raise: another one would fail in the same way


def test_where_one_block_worker_cannot_be_made_the_other_trains_all_blocks():
    run = ScriptedRun()
    run.cluster.broken_constructors[SECOND] = True
    assert run.train().error is None
    assert run.fingerprints() == run.expected.fingerprints(48)
    assert any("there will be no other" in each.text for each in run.records_of(News))


def test_where_no_block_worker_can_be_made_the_run_ends_with_the_cause():
    run = ScriptedRun()
    run.cluster.broken_constructors |= {FIRST: True, SECOND: True}
    error = run.train().error
    for number in (1, 2, 3):
        assert f"block {number} (RuntimeError('made to fail'))" in error
    assert CLASSIFIER.name not in error


def test_where_the_classifier_worker_cannot_be_made_the_blocks_are_trained_to_the_end():
    run = ScriptedRun()
    run.cluster.broken_constructors[CLASSIFIER_WORKER] = True
    assert "not trained to the end: classifier (RuntimeError('made to fail'))" in run.train().error
    assert run.newest() == {block(1): 48, block(2): 48, block(3): 48}
