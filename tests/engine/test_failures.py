"""What a user reads when something goes wrong inside a run: the block, and the real cause."""

import os

import numpy as np
import pytest
import ray

from noprop_dist.engines.ray.block_worker import BlockWorker
from noprop_dist.engines.ray.classifier_worker import ClassifierWorker
from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.engines.ray.evaluator import Evaluator
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.messages import StageFailure
from noprop_dist.training.preparation import prepare
from noprop_dist.training.progress import RoundReport


def test_workers_are_plain_classes_that_run_without_a_cluster(small_setup):
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    worker.hold(3, None)
    report = worker.train(stream.round(RoundKey(3, 0, 4)))
    assert isinstance(report, RoundReport)
    snapshot = worker.snapshot(3)
    other = BlockWorker(setup, data.train.inputs, data.train.labels)
    other.hold(3, snapshot)
    assert other.snapshot(3).fingerprint() == snapshot.fingerprint()
    assert worker.facts().device == "cpu"
    assert worker.facts().pid == os.getpid()


def test_the_classifier_worker_is_one_too(small_setup):
    setup, data = small_setup
    worker = ClassifierWorker(setup, data.train.labels)
    stage = setup.classifier_stage
    worker.hold(stage, None)
    assert isinstance(worker.train(setup.batch_stream(data.train.labels).round(RoundKey(stage, 0, 2))), RoundReport)
    snapshot = worker.snapshot(stage)
    worker.hold(stage, snapshot)
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
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    worker.hold(1, None)
    worker.hold(2, None)
    failure = worker.train(stream.round(RoundKey(1, first_step=5, steps=2)))
    assert isinstance(failure, StageFailure)
    assert (failure.stage, failure.step) == (1, 5)
    assert failure.cause == "RuntimeError: stage 1 has done 0 steps, got step 5"
    assert "Traceback" in failure.trace
    assert worker.train(stream.round(RoundKey(1, 0, 2))) is None, "what was still sent for it is not done"
    assert worker.snapshot(1) is None
    assert isinstance(worker.train(stream.round(RoundKey(2, 0, 2))), RoundReport)


def test_a_worker_told_to_stop_does_no_further_step(small_setup):
    setup, data = small_setup
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    worker.hold(1, None)
    worker.stop()
    assert worker.train(setup.batch_stream(data.train.labels).round(RoundKey(1, 0, 4))) is None
    assert worker.snapshot(1).step == 0


def test_a_read_only_data_set_from_the_object_store_can_be_trained_on(small_setup):
    setup, data = small_setup
    mapped = np.array(data.train.inputs)
    mapped.flags.writeable = False
    worker = BlockWorker(setup, mapped, data.train.labels)
    worker.hold(1, None)
    assert isinstance(worker.train(setup.batch_stream(data.train.labels).round(RoundKey(1, 0, 1))), RoundReport)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_stage_that_raises_is_named_and_the_others_are_trained_to_the_end(run_here, small_config, tmp_path):
    failing = "blocks.networks.2={kind: custom, path: 'failing_networks:FailsLater', arguments: {calls: 5}}"
    message = r"not trained to the end: block 2 \(OverflowError: the soup boiled over, in the round from step 0\)"
    with pytest.raises(TrainingError, match=message):
        run_here(small_config(failing), str(tmp_path / "run"))
    saved = RunDirectory(str(tmp_path / "run")).checkpoints.saved_steps()
    assert {name: steps[-1] for name, steps in saved.items()} == {"block-01": 12, "block-03": 12, "classifier": 12}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_run_for_which_there_is_no_room_says_so(run_here, small_config, tmp_path):
    @ray.remote(num_cpus=2)
    class Other:
        def here(self):
            return True

    other = Other.remote()
    assert ray.get(other.here.remote(), timeout=60)
    config = small_config("engine.workers=2", "engine.start_timeout_seconds=3")
    with pytest.raises(TrainingError, match="no block worker started within .*=3: other runs may hold"):
        run_here(config, str(tmp_path / "run"))
    ray.kill(other)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_network_that_only_the_driver_can_import_is_told(run_here, small_config, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("from failing_networks import FailsLater as Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config("blocks.network={kind: custom, path: 'only_here:Net', arguments: {calls: 5}}")
    with pytest.raises(TrainingError, match="block 1 .*'only_here:Net' cannot be imported"):
        run_here(config, str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_mistake_found_by_the_coordinator_is_the_users(small_config, tmp_path):
    config = small_config("data={name: npz, root: none.npz}")
    with pytest.raises(UserError, match="there is no such file"):
        train_on_ray(config, str(tmp_path / "run"), lambda _: None)
    assert not (tmp_path / "run").exists()
