"""Which block goes where: one worker a block where there is room, else several blocks a worker."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.coordination import placement_of
from noprop_dist.engines.core.placement import Resources, check_room, place, place_again, place_run
from noprop_dist.errors import UserError
from noprop_dist.records import WorkerReady
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot

TEN = tuple(range(1, 11))


def blocks(placement):
    return [worker.blocks for worker in placement.workers]


@pytest.mark.parametrize("workers", range(1, 11))
def test_every_block_has_one_worker_and_counts_differ_by_one_at_most(workers):
    placed = blocks(place(TEN, EngineSettings(workers=workers), Resources(4, 0)))
    assert len(placed) == workers
    assert sum(placed, ()) == TEN
    assert max(map(len, placed)) - min(map(len, placed)) <= 1


def test_a_core_for_each_block_gives_a_worker_for_each_block():
    placement = place(TEN, EngineSettings(), Resources(64, 0))
    assert blocks(placement) == [(t,) for t in TEN]
    assert {worker.cpus for worker in placement.workers} == {1.0}
    assert "10 block(s) on 10 worker(s)" in placement.reason


def test_fewer_cores_than_blocks_gives_several_blocks_to_a_worker():
    assert blocks(place(TEN, EngineSettings(), Resources(2, 0))) == [TEN[:5], TEN[5:]]
    assert blocks(place(TEN, EngineSettings(threads_per_worker=2), Resources(2, 0))) == [TEN]


@pytest.mark.parametrize(("workers", "resources"), [(10, Resources(2, 0)), (7, Resources(3, 0)), (10, Resources(1, 0))])
def test_more_workers_than_cores_share_them_and_fit(workers, resources):
    placement = place(TEN, EngineSettings(workers=workers), resources)
    assert sum(worker.cpus for worker in placement.workers) <= resources.cpus
    assert all(worker.threads == 1 for worker in placement.workers)
    assert "shared by" in placement.reason


@pytest.mark.parametrize(("workers", "gpus"), [("auto", 8), ("auto", 1), (10, 4), (3, 2)])
def test_the_shares_of_each_gpu_leave_room_for_evaluator_and_classifier(workers, gpus):
    placement = place(TEN, EngineSettings(workers=workers, device="cuda"), Resources(32, gpus))
    share = placement.workers[0].gpus
    on_one_gpu = -(-len(placement.workers) // gpus)
    assert on_one_gpu * share + 2 * placement.side_gpus <= 1
    assert int(1 / share) >= on_one_gpu


def test_auto_uses_gpus_where_there_are_any():
    assert place(TEN, EngineSettings(), Resources(32, 4)).workers[0].gpus > 0
    assert place(TEN, EngineSettings(device="cpu"), Resources(32, 4)).workers[0].gpus == 0


def test_there_are_never_more_workers_than_blocks():
    assert len(place((3, 7), EngineSettings(workers=10), Resources(32, 0)).workers) == 2


def test_gpus_where_there_are_none_are_refused():
    with pytest.raises(UserError, match="engine.device=cuda: there is no GPU here"):
        place(TEN, EngineSettings(device="cuda"), Resources(8, 0))


def test_blocks_of_a_worker_are_trained_at_the_same_time_where_it_has_a_gpu():
    engine = EngineSettings()
    assert place(TEN, engine, Resources(2, 0)).lanes == 1
    assert place(TEN, engine, Resources(8, 1)).lanes == 8
    assert place(TEN, engine, Resources(8, 4)).lanes == 3
    assert place(TEN, engine, Resources(8, 10)).lanes == 1
    assert place(TEN, EngineSettings(blocks_at_once=2), Resources(2, 0)).lanes == 2
    assert place(TEN, engine, Resources(8, 1), replicas=2).lanes == 1, "sums over a group are taken in one order"
    assert "up to 8 blocks of a worker at the same time" in place(TEN, engine, Resources(8, 1)).reason


def test_threads_that_fit_into_no_machine_are_refused():
    with pytest.raises(UserError, match=r"engine.threads_per_worker=4: no machine here has more than 2 core"):
        checked(Resources(8, 0, node_cpus=2), "engine.threads_per_worker=4")
    checked(Resources(8, 0, node_cpus=4), "engine.threads_per_worker=4")


def test_a_run_goes_on_where_its_cluster_has_lost_the_machine_that_took_its_threads():
    assert len(place(TEN, EngineSettings(threads_per_worker=4), Resources(8, 0, node_cpus=2)).workers) == 2


def checked(resources, *settings):
    config = load_config("digits", None, list(settings))
    check_room(config, place_run(config, resources), resources)


@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        (["engine.workers=64", "blocks.count=64"], "64 processes would share 2 cores"),
        (["training.replicas_per_block=64"], "64 processes would share 2 cores"),
        (["training.replicas_per_block=4", "engine.workers=10"], "40 processes would share 2 cores"),
        (["engine.threads_per_worker=2", "engine.workers=20", "blocks.count=20"],
         "20 processes would share 1 group of 2 cores"),
    ],
)  # fmt: skip
def test_more_processes_than_could_get_to_training_are_refused(settings, processes):
    with pytest.raises(UserError, match=f"{settings[0].split('=')[0]}=.*{processes}, at most 16 may share one"):
        checked(Resources(2, 0, node_cpus=2), *settings)


def test_workers_beyond_the_number_of_blocks_are_not_started_and_do_not_count():
    checked(Resources(2, 0, node_cpus=2), "engine.workers=1000")


def test_a_learned_embedding_is_refused_workers_that_cannot_hold_all_blocks_at_once():
    def refused(*settings):
        config = load_config("digits", None, ["blocks.count=7", "engine.workers=2", *settings])
        check_room(config, place_run(config, Resources(2, 0)), Resources(2, 0))

    with pytest.raises(UserError, match=r"engine.blocks_per_worker=3: 2 worker\(s\) hold 6 of 7 blocks at a time"):
        refused("embedding.kind=learned", "engine.blocks_per_worker=3")
    refused("embedding.kind=learned", "engine.blocks_per_worker=4")
    refused("engine.blocks_per_worker=3")


@pytest.mark.parametrize(
    ("device", "trained_on", "resources", "workers", "on_gpu"),
    [
        ("auto", "cuda", Resources(8, 0), 0, True),
        ("auto", "cuda", Resources(8, 2), 2, True),
        ("auto", "cpu", Resources(2, 1), 2, False),
        ("auto", "cpu", Resources(0, 0), 0, False),
        ("auto", None, Resources(8, 2), 2, True),
        ("cuda", "cpu", Resources(0, 0), 0, True),
        ("cpu", "cuda", Resources(2, 0), 2, False),
    ],
)
def test_a_run_that_goes_on_stays_on_its_kind_of_device_and_waits_for_it(
    device, trained_on, resources, workers, on_gpu
):
    config = load_config("digits", None, [f"engine.device={device}"])
    placement = place_again(config, resources, trained_on)
    assert (len(placement.workers), placement.on_gpu) == (workers, on_gpu)
    assert ("waits for one" in placement.reason) == (not workers)


def test_threads_that_no_machine_has_now_end_no_run_that_goes_on():
    config = load_config("digits", None, ["engine.threads_per_worker=4"])
    assert place_again(config, Resources(2, 0, node_cpus=2), "cpu").workers


def test_the_kind_of_device_so_far_is_that_of_the_newest_snapshot_or_of_the_newest_worker(tmp_path, small_setup):
    setup, _ = small_setup
    plan = replace(setup.plan, config=load_config("digits", None, ["engine.device=auto", "blocks.count=2"]))
    directory = RunDirectory(str(tmp_path / "run"))

    def on_gpu():
        return placement_of(plan, directory, Resources(2, 0), resume=True).on_gpu

    directory.create(plan.config, plan.facts)
    assert not on_gpu(), "nothing is known"
    ready = WorkerReady(worker="block worker 1", incarnation=1, host="a", node_id="b", pid=1, device="cuda:0")
    directory.append_metrics([ready])
    assert on_gpu()
    for step, device in ((5, "cuda"), (10, "cpu")):
        snapshot = Snapshot(block(1), step, {}, {}, "")
        directory.checkpoints.save(snapshot, 2, {"device": device})
        assert on_gpu() == (device == "cuda")


# Clusters that grow

GROWING = Resources(1, 0, grows=True)


def test_where_the_cluster_grows_there_is_a_worker_a_block_and_blocks_begin_on_those_that_have_room():
    placement = place(TEN, EngineSettings(), GROWING)
    assert blocks(placement) == [TEN, *[()] * 9]
    assert "10 block(s) on 1 worker(s): 1 core available, 9 more asked for" in placement.reason


@pytest.mark.parametrize(
    ("workers", "count"), [("auto", 10), (3, 3), ({"max": 4}, 4), ({"min": 2}, 10), ({"min": 2, "max": 2}, 2)]
)
def test_as_many_workers_are_asked_for_as_are_wanted(workers, count):
    placement = place(TEN, EngineSettings(workers=workers), GROWING)
    assert len(placement.workers) == count
    assert {place.cpus for place in placement.workers} == {1.0}, "none shares its device with others"


def test_a_range_of_workers_on_a_cluster_that_does_not_grow_is_bounded_by_its_devices():
    assert len(place(TEN, EngineSettings(workers={"max": 4}), Resources(3, 0)).workers) == 3


def test_a_run_waits_for_a_gpu_that_the_cluster_can_add():
    placement = place(TEN, EngineSettings(), Resources(4, 0, grows=True, gpus_come=True))
    assert placement.on_gpu
    assert blocks(placement) == [()] * 10
    assert not place(TEN, EngineSettings(device="cpu"), Resources(4, 0, grows=True, gpus_come=True)).on_gpu


def test_more_workers_at_least_than_at_most_are_refused():
    with pytest.raises(ValidationError, match="min=3 is more than max=2"):
        EngineSettings(workers={"min": 3, "max": 2})
