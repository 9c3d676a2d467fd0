"""What a user reads when something goes wrong inside a run: the block, and the real cause."""

import os
import signal
import time

import numpy as np
import pytest
import ray

from noprop_dist.distributed.block_worker import BlockWorker
from noprop_dist.distributed.classifier_worker import ClassifierWorker
from noprop_dist.distributed.coordinator import Coordinator
from noprop_dist.distributed.driver import train_on_ray
from noprop_dist.distributed.evaluator import Evaluator
from noprop_dist.distributed.messages import StageFailure
from noprop_dist.distributed.room import reserved_room
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.setup import prepare


def test_workers_are_plain_classes_that_run_without_a_cluster(small_setup):
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    worker = BlockWorker(setup, data.train.inputs, blocks=(1, 3))
    report = worker.train(stream.round(3, 0, 4))
    assert isinstance(report, RoundReport)
    snapshot = worker.snapshot(3)
    other = BlockWorker(setup, data.train.inputs, blocks=(2, 3))
    other.restore(snapshot)
    assert other.snapshot(3).fingerprint() == snapshot.fingerprint()
    assert worker.facts().device == "cpu"
    assert worker.facts().pid == os.getpid()


def test_the_classifier_worker_is_one_too(small_setup):
    setup, data = small_setup
    worker = ClassifierWorker(setup)
    stage = setup.classifier_stage
    assert isinstance(worker.train(setup.batch_stream(data.train.labels).round(stage, 0, 2)), RoundReport)
    snapshot = worker.snapshot(stage)
    worker.restore(snapshot)
    assert worker.snapshot(stage).step == 2
    assert worker.facts().device == "cpu"


def test_the_evaluator_measures_a_checkpoint(small_run):
    directory = small_run("checkpoint.every_steps=6")
    setup, data = prepare(directory.config())
    evaluator = Evaluator(setup, data.held_out, str(directory))
    assert not evaluator.evaluate(6).final
    final = evaluator.evaluate(12)
    assert final.final
    measured = [record["accuracy"] for record in directory.metrics() if record["kind"] == "evaluation"]
    assert [result.accuracy for _, result in final.results] == measured[-3:], "as the sequential engine measured"
    assert evaluator.facts().pid == os.getpid()


def test_an_error_in_one_block_is_a_value_that_leaves_the_others_alone(small_setup):
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    worker = BlockWorker(setup, data.train.inputs, blocks=(1, 2))
    failure = worker.train(stream.round(1, first_step=5, steps=2))
    assert isinstance(failure, StageFailure)
    assert (failure.stage, failure.step) == (1, 5)
    assert failure.cause == "RuntimeError: stage 1 has done 0 steps, got step 5"
    assert "Traceback" in failure.trace
    assert isinstance(worker.train(stream.round(2, 0, 2)), RoundReport)


def test_a_read_only_data_set_from_the_object_store_can_be_trained_on(small_setup):
    setup, data = small_setup
    mapped = np.array(data.train.inputs)
    mapped.flags.writeable = False
    worker = BlockWorker(setup, mapped, blocks=(1,))
    assert isinstance(worker.train(setup.batch_stream(data.train.labels).round(1, 0, 1)), RoundReport)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(("settings", "message"), [
    (["blocks.network={kind: custom, path: 'failing_networks:FailsLater', arguments: {calls: 5}}"],
     r"block [123] failed in the round from step \d+: OverflowError: the soup boiled over"),
    (["engine.stall_timeout_seconds=0.01"], "no reply within engine.stall_timeout_seconds=0.01 from .*worker"),
])  # fmt: skip
def test_a_failure_reaches_the_user_with_its_block_and_cause(run_here, small_config, tmp_path, settings, message):
    with pytest.raises(TrainingError, match=message):
        run_here(small_config(*settings), str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_worker_that_does_not_start_in_time_is_named(small_config, tmp_path):
    impatient = small_config("engine.start_timeout_seconds=0.01")
    with (
        reserved_room(small_config()) as room,
        pytest.raises(TrainingError, match="did not start within engine.start_timeout_seconds=0.01"),
    ):
        Coordinator(impatient, str(tmp_path / "run"), room).run()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_lost_worker_is_named(small_config, tmp_path):
    """SIGKILL of the process that holds block 2, as the run itself wrote it down."""
    config = small_config("training.max_steps=100000", "checkpoint.every_steps=100000", "engine.workers=3")
    directory = RunDirectory(str(tmp_path / "run"))
    with reserved_room(config) as room:
        coordinator = ray.remote(Coordinator).options(num_cpus=0).remote(config, str(directory), room)
        run, pids = coordinator.run.remote(), {}
        for _ in range(600):
            pids = {record["worker"]: record["pid"] for record in directory.metrics() if record["kind"] == "worker"}
            if "worker of block 2" in pids:
                break
            time.sleep(0.1)
        os.kill(pids["worker of block 2"], signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayTaskError) as lost:
            ray.get(run, timeout=60)
        ray.kill(coordinator)
    assert isinstance(lost.value.cause, TrainingError)
    assert "worker of block 2 was lost: " in str(lost.value.cause)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_run_for_which_there_is_no_room_says_so_and_takes_none(run_here, small_config, tmp_path):
    """Half the room would be taken by one of two such runs, and the other half by the other, for ever."""

    @ray.remote(num_cpus=1)
    class Other:
        def here(self):
            return True

    other = Other.remote()
    assert ray.get(other.here.remote(), timeout=60)
    config = small_config("engine.workers=2", "engine.start_timeout_seconds=2")
    with pytest.raises(TrainingError, match="no room for 2 block worker.* of 1 core.* within .*=2; other runs may"):
        run_here(config, str(tmp_path / "run"))
    ray.kill(other)
    run_here(config.model_copy(update={"engine": small_config().engine}), str(tmp_path / "again"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_what_a_workers_constructor_raises_is_told(run_here, small_config, tmp_path, monkeypatch):
    """A network that the driver can import and a worker cannot."""
    (tmp_path / "only_here.py").write_text("from failing_networks import FailsLater as Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config("blocks.network={kind: custom, path: 'only_here:Net', arguments: {calls: 5}}")
    with pytest.raises(TrainingError, match="worker of block.* was lost: .*'only_here:Net' cannot be imported"):
        run_here(config, str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_mistake_found_by_the_coordinator_is_the_users(small_config, tmp_path):
    config = small_config("data={name: npz, root: none.npz}")
    with pytest.raises(UserError, match="there is no such file"):
        train_on_ray(config, str(tmp_path / "run"), lambda _: None)
    assert not (tmp_path / "run").exists()
