"""A learned W_embed: its gradient, its versions, and what a stage keeps of them over a loss."""

import numpy as np
import pytest
import torch

from noprop_dist.stages import CLASSIFIER, EMBEDDING, block
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingExchange, EmbeddingUpdate, EmbeddingVersion, objective_gradient
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")
LEARNED = "embedding={kind: learned, sync_steps: 4}"


def gradient(value):
    return np.full((2, 3), value, dtype=np.float32)


def exchange(first_step=0, total_steps=10):
    return EmbeddingExchange(gradient(0), first_step, sync_steps=4, total_steps=total_steps, blocks=2)


def test_blocks_count_by_their_mean_and_steps_too():
    """Eq. 8: cross-entropy and KL once, T · E_t of the denoising terms, which carry their T already."""
    gathered = {block(1): gradient(8), CLASSIFIER: gradient(2), block(2): gradient(4)}
    assert np.array_equal(objective_gradient(gathered, blocks=2, steps=4), gradient((2 + (8 + 4) / 2) / 4))


def test_a_version_is_made_once_every_stage_has_come_to_its_end():
    versions = exchange()
    assert versions.may_train_to(0) == 4
    assert versions.may_train_to(4) == 4, "there is no next version yet"
    versions.gather(block(1), 2, gradient(1))  # on the way: does not count
    versions.gather(block(1), 4, gradient(8))
    versions.gather(CLASSIFIER, 4, gradient(2))
    assert versions.may_update_to(0) == 0
    versions.gather(block(2), 4, gradient(4))
    assert versions.may_update_to(0) == 4
    update = versions.update_at(0)
    assert (update.number, update.first_step, update.steps) == (0, 0, 4)
    versions.publish(EmbeddingVersion(1, gradient(5)))
    assert versions.at(4).number == 1
    assert versions.may_train_to(6) == 8
    assert versions.end_of_version(9) == 10, "the last version is cut short by the end of the run"


def test_a_replay_changes_nothing_and_finds_the_old_versions():
    versions = exchange()
    for _ in range(2):
        for stage, value in ((block(1), 1), (block(2), 2), (CLASSIFIER, 3)):
            versions.gather(stage, 4, gradient(value))
        versions.publish(EmbeddingVersion(1, gradient(7)))
    assert versions.at(0).number == 0
    assert np.array_equal(versions.update_at(0).gradient, gradient((3 + 1.5) / 4))
    with pytest.raises(RuntimeError, match="made twice, with different bits"):
        versions.publish(EmbeddingVersion(1, gradient(8)))
    versions.forget_before(4)
    assert versions.at(0) is None
    assert versions.update_at(0) is None
    assert versions.at(4) is not None


def test_a_run_goes_on_with_the_version_of_its_step():
    assert exchange(first_step=8).at(9).number == 2
    assert exchange(first_step=10, total_steps=10).at(9) is None, "nothing is left to do"


@pytest.mark.parametrize("kind", ["learned", "prototype"])
def test_a_snapshot_in_the_middle_of_a_version_loses_nothing_of_the_gradient(small_config, kind):
    setup, data = prepare(small_config(f"embedding={{kind: {kind}, sync_steps: 4}}"))
    samples, stream = setup.training_samples(data.train.inputs, CPU), setup.batch_stream(data.train.labels)
    version = EmbeddingVersion(0, setup.embedding.numpy())
    for stage in (block(2), CLASSIFIER):

        def new_trainer(stage=stage):
            return setup.block_trainer(2, samples, CPU) if stage.is_block else setup.classifier_trainer(CPU)

        whole = new_trainer()
        expected = train_round(whole, stream.round(RoundKey(stage, 0, 4, version))).embedding_gradient
        first = new_trainer()
        train_round(first, stream.round(RoundKey(stage, 0, 3, version)))
        second = new_trainer()
        second.restore(first.snapshot())
        report = train_round(second, stream.round(RoundKey(stage, 3, 1, version)))
        assert np.array_equal(report.embedding_gradient, expected)
        assert second.snapshot().fingerprint() == whole.snapshot().fingerprint()
        assert np.abs(expected).max() > 0


def test_the_owner_takes_every_version_once_and_in_order(small_config):
    setup, _ = prepare(small_config(LEARNED))
    owner = setup.embedding_trainer()
    zeros = np.zeros((10, 20), dtype=np.float32)
    version, report = owner.apply(EmbeddingUpdate(0, 0, 4, zeros + 1))
    assert (version.number, report.steps_done, owner.snapshot().step) == (1, 4, 4)
    assert owner.snapshot().stage == EMBEDDING
    assert (version.weights < setup.embedding.numpy()).all(), "against the gradient"
    with pytest.raises(RuntimeError, match="has seen 4 steps, got the gradient from step 0"):
        owner.apply(EmbeddingUpdate(0, 0, 4, zeros))
    with pytest.raises(ArithmeticError, match="gradient of W_embed was not finite"):
        owner.apply(EmbeddingUpdate(1, 4, 4, zeros + np.nan))
    restored = setup.embedding_trainer()
    restored.restore(owner.snapshot())
    next_update = EmbeddingUpdate(1, 4, 4, zeros + 0.5)
    assert np.array_equal(restored.apply(next_update)[0].weights, owner.apply(next_update)[0].weights)


def test_an_update_reports_whether_classes_shrink_or_come_together(small_config):
    setup, _ = prepare(small_config(LEARNED))
    version, report = setup.embedding_trainer().apply(EmbeddingUpdate(0, 0, 4, np.ones((10, 20), np.float32)))
    W = version.weights.astype(np.float64)
    distances = np.linalg.norm(W[:, None] - W, axis=2)
    assert report.mean_norm == pytest.approx(np.linalg.norm(W, axis=1).mean(), rel=1e-5)
    assert report.least_distance == pytest.approx(distances[~np.eye(10, dtype=bool)].min(), rel=1e-4)
    assert report.gradient_norm == pytest.approx(200**0.5)


@pytest.mark.parametrize("dim", [4, 10, 20])
def test_learned_embeddings_begin_orthonormal_where_there_is_room(small_config, dim):
    W = prepare(small_config(f"embedding={{kind: learned, dim: {dim}}}"))[0].embedding
    assert W.shape == (10, dim)
    if dim >= 10:
        torch.testing.assert_close(W @ W.T, torch.eye(10), atol=1e-6, rtol=0)
    else:
        assert 0.5 < W.norm(dim=1).mean() < 1.5
