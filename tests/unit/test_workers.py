"""Workers and evaluator without Ray: they are plain classes, and an error of one stage is a value."""

import gc
import os

import numpy as np
import torch

from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.engines.ray.workers import BlockWorker, ClassifierWorker, Evaluator
from noprop_dist.records import Evaluated
from noprop_dist.stages import CLASSIFIER, EMBEDDING, NETWORK, block
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingUpdate
from noprop_dist.training.messages import RoundReport, StageFailure
from noprop_dist.training.replicas import ALONE
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")


def test_workers_are_plain_classes_that_run_without_a_cluster(small_setup):
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    worker.hold(block(3), None)
    report = worker.train(stream.round(RoundKey(block(3), 0, 4)))
    assert isinstance(report, RoundReport)
    snapshot = worker.snapshot(block(3))
    other = BlockWorker(setup, data.train.inputs, data.train.labels)
    other.hold(block(3), snapshot)
    assert other.snapshot(block(3)).fingerprint() == snapshot.fingerprint()
    assert worker.facts().device == "cpu"
    assert worker.facts().pid == os.getpid()


def test_the_classifier_worker_is_one_too(small_setup):
    setup, data = small_setup
    worker = ClassifierWorker(setup, data.train.labels)
    worker.hold(CLASSIFIER, None)
    assert isinstance(worker.train(RoundKey(CLASSIFIER, 0, 2)), RoundReport), "it can draw a round by itself"
    snapshot = worker.snapshot(CLASSIFIER)
    worker.hold(CLASSIFIER, snapshot)
    assert worker.snapshot(CLASSIFIER).step == 2
    assert worker.facts().device == "cpu"


def test_the_classifier_worker_owns_a_learned_w_embed(small_config):
    setup, data = prepare(small_config("embedding={kind: learned, sync_steps: 4}"))
    worker = ClassifierWorker(setup, data.train.labels)
    update = EmbeddingUpdate(0, 0, 4, np.ones((10, 20), np.float32))
    assert worker.update(update) is None, "it holds no W_embed yet"
    worker.hold(EMBEDDING, None)
    version, report = worker.update(update)
    assert (version.number, report.steps_done) == (1, 4)
    failure = worker.update(update)
    assert (failure.stage, failure.step) == (EMBEDDING, 0)
    assert failure.cause == "RuntimeError: W_embed has seen 4 steps, got the gradient from step 0"


def test_the_evaluator_measures_a_checkpoint(small_run):
    directory = small_run("checkpoint.every_steps=6")
    setup, data = prepare(directory.config())
    evaluator = Evaluator(setup, data.held_out, str(directory))
    assert not evaluator.evaluate(6).final
    final = evaluator.evaluate(12)
    assert final.final
    measured = [record.accuracy for record in directory.metrics() if isinstance(record, Evaluated)]
    assert [result.accuracy for _, result in final.results] == measured[-3:], "as the sequential engine measured"
    assert evaluator.facts().pid == os.getpid()


def test_an_error_in_one_block_is_a_value_that_leaves_the_others_alone(small_setup):
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    worker.hold(block(1), None)
    worker.hold(block(2), None)
    failure = worker.train(stream.round(RoundKey(block(1), first_step=5, steps=2)))
    assert isinstance(failure, StageFailure)
    assert (failure.stage, failure.step) == (block(1), 5)
    assert failure.cause == "RuntimeError: block 1 has done 0 steps, got step 5"
    assert "Traceback" in failure.trace
    assert worker.train(stream.round(RoundKey(block(1), 0, 2))) is None, "what was still sent for it is not done"
    assert worker.snapshot(block(1)) is None
    assert isinstance(worker.train(stream.round(RoundKey(block(2), 0, 2))), RoundReport)


def test_a_worker_told_to_stop_does_no_further_step(small_setup):
    setup, data = small_setup
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    worker.hold(block(1), None)
    worker.stop()
    assert worker.train(setup.batch_stream(data.train.labels).round(RoundKey(block(1), 0, 4))) is None
    assert worker.snapshot(block(1)).step == 0


def test_a_read_only_data_set_from_the_object_store_can_be_trained_on(small_setup):
    setup, data = small_setup
    mapped = np.array(data.train.inputs)
    mapped.flags.writeable = False
    worker = BlockWorker(setup, mapped, data.train.labels)
    worker.hold(block(1), None)
    assert isinstance(worker.train(setup.batch_stream(data.train.labels).round(RoundKey(block(1), 0, 1))), RoundReport)


def bytes_of_tensors_made_by(make):
    """Of the tensors that are there because of `make`, whose result is kept meanwhile."""
    gc.collect()
    gc.freeze()  # what is there already is not looked at, here and later
    kept = make()
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    del kept
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def test_memory_of_a_block_worker_does_not_grow_with_the_number_of_blocks_as_the_baselines_does(small_config):
    def worker(blocks):
        setup, data = prepare(small_config(f"blocks.count={blocks}"))
        worker = BlockWorker(setup, data.train.inputs, data.train.labels)
        worker.hold(block(1), None)
        worker.train(RoundKey(block(1), 0, 1))
        return worker

    def baseline(blocks):
        setup, data = prepare(small_config("method=backprop", f"blocks.count={blocks}"))
        samples = setup.training_samples(data.train.inputs, CPU)
        trainer = end_to_end_trainer(setup, samples, CPU, ALONE, lambda module: module)
        train_round(trainer, setup.batch_stream(data.train.labels).round(RoundKey(NETWORK, 0, 1)))
        return trainer

    of_worker = [bytes_of_tensors_made_by(lambda blocks=blocks: worker(blocks)) for blocks in (2, 20)]
    assert of_worker[0] == of_worker[1] > 0
    few, many = (bytes_of_tensors_made_by(lambda blocks=blocks: baseline(blocks)) for blocks in (2, 20))
    assert many > 5 * few
