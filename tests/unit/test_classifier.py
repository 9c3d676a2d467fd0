"""NoPropClassifier: a trained network as one torch module."""

import copy
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from untrained import MLP, NETWORKS, OWN, images_for, untrained, untrained_network

from noprop_dist import api
from noprop_dist.errors import UserError
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.network import predict_image
from noprop_dist.torch_device import choose_device


@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_are_those_of_predict(name, sampler, passes):
    network, card = untrained_network(*NETWORKS[name])
    classifier = NoPropClassifier.of(network, card, sampler, passes)
    images = images_for(classifier, 4)
    probabilities = classifier.predict_proba(images)
    assert probabilities.dtype == torch.float32
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(4), atol=1e-6)
    assert probabilities.std() > 0.003, "the test's network tells classes apart"
    for image, row in zip(images, probabilities, strict=True):
        x = classifier.normalise(image[None])
        with torch.no_grad():
            torch.testing.assert_close(network.decide(x, sampler, passes).probabilities[0], row, atol=1e-6, rtol=0)
        told = predict_image(network, image.numpy(), sampler, passes)
        assert told.class_name == classifier.class_names[int(classifier.predict(image[None])[0])]
        assert told.probability == pytest.approx(float(row.max()), abs=1e-6)


def test_the_chain_is_the_networks_own():
    network, card = untrained_network(MLP)
    classifier = NoPropClassifier.of(network, card, "stochastic", passes=2)
    images = images_for(classifier, 1)
    chain = classifier.chain(images)
    with torch.no_grad():
        links = list(network.chain(classifier.normalise(images), "stochastic"))
    assert chain.shape == (4, 1, 5)
    assert torch.equal(chain[0], network.noise(1, 0, 0, 0))
    assert torch.equal(chain[1:], torch.stack([link.z for link in links]))


def test_an_answer_does_not_depend_on_the_batch():
    classifier = untrained(MLP, sampler="stochastic")
    images = images_for(classifier, 6)
    whole = classifier.predict_proba(images)
    parts = torch.cat([classifier.predict_proba(images[:1]), classifier.predict_proba(images[1:])])
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=0)


def test_train_changes_no_answer_not_even_of_batch_normalisation():
    classifier = untrained(*NETWORKS["small-conv"])
    images = images_for(classifier, 1)
    before, state = classifier.predict_proba(images), copy.deepcopy(classifier.state_dict())
    torch.nn.Sequential(classifier).train()
    assert torch.equal(classifier.predict_proba(images), before)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_seed_fixes_every_answer_and_another_one_changes_it():
    images = images_for(untrained(MLP), 4)
    one, again, own, other = (untrained(MLP, sampler="stochastic", seed=seed)(images) for seed in (7, 7, None, 8))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(own, untrained(MLP, sampler="stochastic", seed=3)(images)), "the run's seed is the default"


def test_uint8_and_floats_in_0_to_1_are_the_same_images():
    classifier = untrained(MLP)
    images = images_for(classifier, 4)
    assert torch.equal(classifier(images), classifier(images / 255))
    assert torch.equal(classifier.predict(images.numpy()), classifier.predict(images))
    assert torch.equal(
        classifier.predict_proba(images.numpy().astype(np.float64) / 255).argmax(1), classifier.predict(images)
    )


def test_noise_that_is_given_takes_the_place_of_the_modules_own():
    mean, stochastic = untrained(MLP), untrained(MLP, sampler="stochastic", passes=2)
    images = images_for(mean, 3)
    assert torch.equal(stochastic(images, stochastic.noise.expand(-1, -1, 3, -1)), stochastic(images))
    noise = torch.randn(4, 3, 5)
    one = mean(images, noise)
    assert torch.equal(one, mean(images, noise[:1]))
    assert torch.equal(one, mean(images, noise[None]))
    assert not torch.equal(one, mean(images))
    assert not torch.equal(stochastic(images, noise), stochastic(images, torch.cat([noise[:1], torch.randn(3, 3, 5)])))


@pytest.mark.parametrize(
    ("facts", "images", "told"),
    [
        (
            {},
            torch.zeros(1, 8, 8, dtype=torch.uint8),
            r"images of shape \(1, 8, 8\) do not fit.*takes \(B, 1, 8, 8\)",
        ),
        ({}, torch.zeros(5, 8, 8), r"\(B, 1, 8, 8\); hand over images\[:, None\], or call `predict`$"),
        ({}, torch.zeros(5, 8, 8, 1), r"\(B, 1, 8, 8\); hand over images.permute\(0, 3, 1, 2\), or call `predict`$"),
        ({}, torch.zeros(5, 4, 8), r"\(B, 1, 8, 8\)$"),
        ({}, torch.zeros(2, 3, 8, 8), r"images of shape \(2, 3, 8, 8\) do not fit"),
        (
            {},
            torch.zeros(2, 1, 8, 8, dtype=torch.int64),
            r"torch.int64 do not.*takes uint8 \(0..255\) or floats",
        ),
        ({"dtype": "float32"}, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "torch.uint8 do not fit.*takes float32$"),
    ],
)
def test_images_that_do_not_fit_are_told_in_one_sentence(facts, images, told):
    with pytest.raises(UserError, match=told):
        untrained(MLP, **facts)(images)


@pytest.mark.parametrize("shape", [(3, 2, 5), (4, 2, 4), (4, 1, 5), (4, 2), (1, 2, 5), (1, 1, 4, 2, 5)])
def test_noise_that_does_not_fit_is_told_in_one_sentence(shape):
    classifier = untrained(MLP, sampler="stochastic")
    with pytest.raises(UserError, match=r"noise of shape .* takes \(\[1,\] 4, 2, 5\)"):
        classifier(images_for(classifier, 2), torch.zeros(shape))


@pytest.mark.parametrize("wrong", [{"sampler": "median"}, {"passes": 0}, {"seed": -1}, {"seed": 2**63}])
def test_choices_that_are_not_allowed_are_told(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        untrained(MLP, **wrong)


def test_it_works_in_inference_mode_and_in_a_loop_over_a_data_loader():
    classifier = untrained(MLP)
    images = images_for(classifier, 10)
    loader = DataLoader(TensorDataset(images), batch_size=4)
    with torch.inference_mode():
        found = torch.cat([classifier(batch) for (batch,) in loader])
        torch.testing.assert_close(found, classifier(images), atol=1e-5, rtol=0)
    assert classifier.predict(images[:0]).shape == (0,)


def test_gradients_reach_the_image():
    classifier = untrained(MLP)
    image = (images_for(classifier, 1) / 255).requires_grad_()
    classifier(image)[0, 0].backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
def test_it_compiles_as_one_graph_for_any_batch(sampler):
    classifier = untrained("blocks.network={kind: small-conv}", sampler=sampler, passes=2)
    compiled = torch.compile(classifier, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.inference_mode():
        for count in (2, 5, 1):
            images = images_for(classifier, count)
            torch.testing.assert_close(compiled(images), classifier(images), atol=1e-5, rtol=0)


def test_it_moves_between_devices_and_dtypes_with_all_it_needs():
    classifier = untrained(MLP)
    assert classifier.to("meta")(torch.empty(3, 1, 8, 8, device="meta")).shape == (3, 5)
    half = untrained(MLP).to(torch.bfloat16)
    images = images_for(half, 4)
    assert half(images).dtype == torch.float32
    torch.testing.assert_close(half.predict_proba(images), untrained(MLP).predict_proba(images), atol=0.05, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_answers_the_same_on_a_gpu():
    classifier = untrained(MLP, sampler="stochastic", passes=2)
    images = images_for(classifier, 4)
    expected = classifier.predict_proba(images)
    torch.testing.assert_close(classifier.cuda().predict_proba(images).cpu(), expected, atol=1e-4, rtol=0)


def test_copies_pickles_and_state_dicts_answer_alike():
    classifier = untrained(OWN, sampler="stochastic")
    images = images_for(classifier, 4)
    expected = classifier(images)
    assert torch.equal(copy.deepcopy(classifier)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(classifier))(images), expected)
    file = io.BytesIO()
    torch.save(classifier.state_dict(), file)
    file.seek(0)
    other = untrained(OWN, "schedule.kind=linear", sampler="stochastic", seed=9)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert not torch.equal(other(images), expected)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(images), expected), "schedule, noise and normalisation are in it, too"


@pytest.fixture(scope="module")
def run(sequential):
    """Checkpoints of steps 6 and 12."""
    return sequential("blocks.count=2", MLP, "training.max_steps=12", "checkpoint.every_steps=6")


def test_a_run_is_loaded_as_a_classifier(run):
    classifier = api.load(str(run))
    assert classifier.card["trained"]["step"] == 12
    assert classifier.class_names == tuple("0123456789")
    assert classifier.predict(images_for(classifier, 3)).shape == (3,)
    assert "accuracy" in classifier.card["trained"]
    assert str(run) not in str(classifier.config()), "no path of this machine goes with a model"


@pytest.mark.parametrize("best", [6, 12])
def test_the_best_checkpoint_is_that_of_the_highest_validation_accuracy(run, tmp_path, best):
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    lines = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line.get("split") == "validation" and "accuracy" in line:
            line["accuracy"] = 0.9 if line["step"] == best else 0.8
    (copied / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert api.open_run(str(copied), checkpoint="best").step == best
    assert api.open_run(str(copied), checkpoint=6).step == 6
    assert api.open_run(str(copied), checkpoint="6").step == 6
    assert api.open_run(str(copied)).step == 12


@pytest.mark.parametrize("choice", [7, "first", ""])
def test_a_checkpoint_that_is_not_there_is_told(run, choice):
    with pytest.raises(UserError, match=f"has no checkpoint {choice}; allowed are last, best, 6, 12"):
        api.load(str(run), choice)


def test_there_is_no_best_where_nothing_was_evaluated(sequential):
    run = sequential("blocks.count=2", MLP, "training.max_steps=6", "evaluation.samples=0")
    with pytest.raises(UserError, match="none of its checkpoints was measured on validation data"):
        api.load(str(run), "best")


@pytest.mark.parametrize("dtype", ["uint8", "float32", ">f4", "f2", "longdouble"])
def test_an_array_answers_alike_however_it_lies_in_memory(dtype):
    classifier = untrained(MLP)
    images = images_for(classifier, 6)
    if dtype != "uint8":
        images = images / 255
    array = images.numpy().astype(dtype)
    array.flags.writeable = False
    expected = classifier.predict_proba(torch.from_numpy(array.astype("uint8" if dtype == "uint8" else "float32")))
    torch.testing.assert_close(classifier.predict_proba(array[::-1]), expected.flip(0))
    assert classifier.chain(array[::-1]).shape[1] == 6
    assert torch.equal(classifier.predict(np.asfortranarray(array)), expected.argmax(dim=1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images: images.float(), "images from 0 to 25. do not fit: this network takes uint8 .* floats in 0..1"),
        (lambda images: (images / 255 - 0.13) / 0.31, "images from .* do not fit: .* not normalised"),
        (lambda images: images / 255 * torch.nan, "images hold values that are not finite"),
    ],
)
@pytest.mark.parametrize("way", ["forward", "predict", "predict_proba", "chain"])
def test_floats_of_another_scale_than_pixels_are_refused(make, message, way):
    classifier = untrained(MLP)
    images = make(images_for(classifier, 4))
    with pytest.raises(UserError, match=message):
        getattr(classifier, way)(images)
    with pytest.raises(UserError, match=message):
        classifier.predict(images.numpy())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "images: holds object, arrays of plain numbers"),
        ("image.png", "images: holds .*, arrays of plain numbers"),
        (3, r"images of shape \(\) do not fit"),
        ([[1, 2], [3]], "images: is no array"),
        (np.ma.masked_less(np.arange(4.0), 2), "images: is a masked array, and what is masked has no value"),
        ([np.ma.masked_less(np.arange(4.0), 2)], "images: is a masked array, and what is masked has no value"),
        (torch.zeros(()), r"images of shape \(\) do not fit"),
        (torch.zeros(2, 1, 8, 8).to_sparse(), "images: is a sparse_coo tensor; a dense one is needed"),
        (torch.zeros(2, 1, 8, 8, device="meta"), "images: is a tensor on the meta device"),
    ],
)
def test_what_is_no_batch_of_images_is_one_sentence(images, message):
    classifier = untrained(MLP)
    with pytest.raises(UserError, match=message):
        classifier.predict(images)
    with pytest.raises(UserError, match=rf"images: is \w+, a tensor is needed|{message}"):
        classifier(images)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_images_are_predicted_in_the_layouts_that_training_takes(shape, dtype):
    classifier = untrained("blocks.network={kind: small-conv, channels: [4, 8], width: 16}", shape=shape, dtype=dtype)
    images = images_for(classifier, 5)
    for same in [images.permute(0, 2, 3, 1), *([images[:, 0]] if shape[0] == 1 else [])]:
        for given in (same, same.numpy()):
            assert torch.equal(classifier.predict(given), classifier.predict(images))
            torch.testing.assert_close(classifier.predict_proba(given), classifier.predict_proba(images))
            torch.testing.assert_close(classifier.chain(given), classifier.chain(images))
        with pytest.raises(UserError, match="do not fit"):
            classifier(same)


def test_the_cpu_may_be_named_as_torch_names_it():
    assert choose_device("cpu:0") == choose_device(torch.device("cpu", 0)) == torch.device("cpu")


def test_what_is_set_on_a_classifier_has_an_effect_or_is_refused():
    classifier = untrained(MLP)
    images = images_for(classifier, 3)
    classifier.sampler = "stochastic"
    assert torch.equal(classifier(images), untrained(MLP, sampler="stochastic")(images))
    with pytest.raises(UserError, match="sampler: 'foo' is not allowed: input should be 'stochastic' or 'mean'"):
        classifier.sampler = "foo"
    for name, value in {"passes": 3, "seed": 4, "device": "cpu"}.items():
        with pytest.raises(UserError, match=f"{name}={value}: cannot be set on a classifier; "):
            setattr(classifier, name, value)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "device=tpu: is no device; allowed are auto, cpu, cuda, and cuda:0"),
        ("cuda:x", "device=cuda:x: is no device"),
        ("cuda:9", "device=cuda:9: this process sees .*; use device=cpu or auto"),
        (torch.device("cuda", 9), "device=cuda:9: this process sees .*; use device=cpu or auto"),
        ("", "device=: is no device"),
        (None, "device: None is not allowed"),
    ],
)
def test_a_device_that_is_not_there_is_refused_wherever_it_is_named(run, tmp_path, device, message):
    api.load(run, device=torch.device("cpu")).save_pretrained(tmp_path / "saved")
    for call in (api.load, api.open_run):
        with pytest.raises(UserError, match=message):
            call(run, device=device)
    with pytest.raises(UserError, match=message):
        NoPropClassifier.from_pretrained(tmp_path / "saved", device=device)
