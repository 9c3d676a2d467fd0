"""`save_pretrained` and `from_pretrained`: whole or not at all, and no code of a stranger's."""

import hashlib
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from untrained import MLP, NETWORKS, OWN, OwnNetwork, images_for, python, untrained

from noprop_dist.errors import UserError
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.models import custom

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return untrained(MLP).save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture(autouse=True)
def no_forbidden_folders(monkeypatch):
    monkeypatch.setattr(custom, "_no_code_in", set())


def edit(folder, change):
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def with_weights(folder, change):
    """Change the weights and let config.json know of it, as a forger would."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    edit(folder, lambda values: values.update(weights_sha256=hashlib.sha256(content).hexdigest()))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["regnet_y_400mf", "swin_v2_t", "convnext_tiny"])
def test_backbones_that_compute_their_sizes_are_read(backbone, tmp_path):
    own = f"blocks.networks.2={{kind: torchvision, backbone: {backbone}, width: 8}}"
    saved = untrained(MLP, own, shape=(3, 64, 64))
    read = NoPropClassifier.from_pretrained(saved.save_pretrained(tmp_path / "model"))
    images = images_for(saved, 2)
    torch.testing.assert_close(read(images), saved(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*NETWORKS, "torchvision", "vectors"])
def test_a_folder_gives_the_same_classifier_again(name, tmp_path):
    settings = NETWORKS.get(name, ["blocks.network={kind: torchvision, backbone: squeezenet1_1, width: 8}"])
    facts = {"shape": (3, 32, 32), "dtype": "float32"} if name == "torchvision" else {}
    if name == "vectors":
        settings, facts = [MLP], {"shape": (6,), "dtype": "float32"}
    saved = untrained(*settings, sampler="stochastic", passes=2, seed=11, **facts)
    folder = saved.save_pretrained(tmp_path / "model")
    read = NoPropClassifier.from_pretrained(folder, network=OwnNetwork if name == "own" else None)
    images = images_for(saved, 3)
    assert torch.equal(read(images), saved(images))
    assert not read.training
    assert read.config() == saved.config()
    assert read.class_names == saved.class_names
    again = read.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors", "README.md"):
        assert (again / file).read_bytes() == (folder / file).read_bytes(), file


def test_the_folder_has_the_layout_of_hugging_face(folder):
    assert sorted(each.name for each in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert {each.stat().st_mode & 0o444 for each in folder.iterdir()} == {0o444}, "readable, as other files are"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["NoPropClassifier"]
    assert config["id2label"]["4"] == "class 4"
    card = (folder / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "library_name: noprop-dist" in front
    assert "pipeline_tag: image-classification" in front
    assert "| accuracy test (mean) | 50.00% |" in card


def test_the_dtype_of_the_weights_is_kept(tmp_path):
    half = untrained(MLP).to(torch.bfloat16)
    read = NoPropClassifier.from_pretrained(half.save_pretrained(tmp_path / "half"))
    images = images_for(half, 3)
    assert torch.equal(read(images), half(images))


def test_weights_that_blocks_share_are_saved(tmp_path):
    classifier = untrained(MLP)
    classifier.blocks[1] = classifier.blocks[0]
    read = NoPropClassifier.from_pretrained(classifier.save_pretrained(tmp_path / "tied"))
    images = images_for(classifier, 3)
    assert torch.equal(read(images), classifier(images))


def test_convolutions_are_laid_out_as_those_of_a_run(tmp_path):
    """On a CPU others take twice the time."""
    folder = untrained(*NETWORKS["paper"]).save_pretrained(tmp_path / "model")
    weights = [each for each in NoPropClassifier.from_pretrained(folder).parameters() if each.dim() == 4]
    assert len(weights) == 9
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in weights)


def test_nothing_is_overwritten(folder, tmp_path):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(UserError, match="is there already, and nothing is overwritten"):
        untrained(MLP, seed=99).save_pretrained(folder)
    assert (folder / "config.json").read_bytes() == before
    (tmp_path / "empty").mkdir()
    untrained(MLP).save_pretrained(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        untrained(MLP).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    code = """
import resource, signal
from untrained import MLP, untrained
classifier = untrained(MLP)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    classifier.save_pretrained("model")
except OSError as error:
    print(type(error).__name__, error)
"""
    assert python(code, folder=tmp_path).startswith("OSError [Errno 27] File too large")
    assert list(tmp_path.iterdir()) == []


WITHOUT_RAY = """
import sys
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
sys.meta_path.insert(0, NoRay())
import torch
from noprop_dist import NoPropClassifier
classifier = NoPropClassifier.from_pretrained(sys.argv[1])
print(classifier.predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).tolist())
assert not any(name.split(".")[0] == "ray" for name in sys.modules)
"""


@pytest.mark.slow
def test_a_machine_without_ray_reads_a_folder(folder, tmp_path):
    expected = NoPropClassifier.from_pretrained(folder).predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert python(WITHOUT_RAY, folder, folder=tmp_path).strip() == str(expected.tolist())


# --- the Hugging Face Hub --------------------------------------------------------------------------------------------

BY_THE_HUB = """
import os, sys, torch
from hub import hub
with hub() as address:
    os.environ.update(HF_ENDPOINT=address, HF_HOME=sys.argv[1], HF_TOKEN="hf_x", HF_HUB_DISABLE_PROGRESS_BARS="1")
    from untrained import MLP, images_for, untrained
    from noprop_dist.errors import UserError
    from noprop_dist.inference.classifier import NoPropClassifier
    classifier = untrained(MLP)
    classifier.save_pretrained(sys.argv[1] + "/saved", push_to_hub="me/model")
    images = images_for(classifier, 3)
    assert torch.equal(NoPropClassifier.from_pretrained("me/model")(images), classifier(images))
    try:
        NoPropClassifier.from_pretrained("me/none")
    except UserError as error:
        print(error)
try:
    classifier.save_pretrained(sys.argv[1] + "/kept", push_to_hub="me/model")
except UserError as error:
    print(error)
assert os.path.exists(sys.argv[1] + "/kept/config.json")
"""


@pytest.mark.slow
def test_a_classifier_goes_to_the_hub_and_comes_back(tmp_path):
    pytest.importorskip("huggingface_hub")
    missing, unreachable = python(BY_THE_HUB, tmp_path, folder=tmp_path).splitlines()
    assert missing.startswith("me/none: there is no such folder, and a download from the Hugging Face Hub fails: ")
    assert unreachable.startswith("push_to_hub=me/model: an upload to the Hugging Face Hub fails: ")


def test_the_package_for_the_hub_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"me/model: there is no such folder, .* pip install noprop-dist\[hub\]"):
        NoPropClassifier.from_pretrained("me/model")
    with pytest.raises(UserError, match=r"push_to_hub=me/model: .* pip install noprop-dist\[hub\]"):
        untrained(MLP).save_pretrained(tmp_path / "x", push_to_hub="me/model")


# --- damaged and hostile folders -------------------------------------------------------------------------------------

DELETE = object()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("format", each) for each in (2, "1", None, DELETE)],
        ("model_type", "bert"),
        *[("input_shape", each) for each in ([], [0, 8, 8], [-1], "x", [1] * 9, [1.5], DELETE)],
        *[("input_dtype", each) for each in ("int64", "object", 3)],
        *[("embedding_dim", each) for each in (0, -1, 2**40, "x")],
        *[("id2label", each) for each in ({}, ["a"], {"a": "b"}, {"1": "x"}, {"0": 1}, {"0": "a", "2": "b"}, None)],
        *[("sampler", each) for each in ("median", None, 1)],
        *[
            ("blocks", each)
            for each in (None, {}, {"count": 0}, {"count": 10**6}, {"network": {"kind": "x"}}, {"x": 1})
        ],
        *[("classifier", each) for each in (None, {"kind": "x"}, {"kind": "radial", "sigma": -1})],
        *[("weights_sha256", each) for each in (None, "x", 5, DELETE)],
        ("trained", 3),
    ],
)
def test_a_configuration_of_other_values_is_refused(copied, key, value):
    edit(copied, lambda values: values.pop(key) if value is DELETE else values.update({key: value}))
    with pytest.raises(UserError, match=r"copied: config.json"):
        NoPropClassifier.from_pretrained(copied)


@pytest.mark.parametrize("content", [b"", b"[1]", b"5", b"null", b"\xff\xfe", b"{", DEEP.encode(), b" " * (17 * 2**20)])
def test_a_configuration_that_is_none_is_refused(copied, content):
    (copied / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="copied: config.json cannot be read"):
        NoPropClassifier.from_pretrained(copied)


@pytest.mark.parametrize("damage", ["", "cut", "flipped", "gone", "pipe", "folder"])
def test_damaged_weights_are_refused(copied, damage):
    file = copied / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    match damage:
        case "":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(content[:-10])
        case "flipped":
            file.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
    with pytest.raises(UserError, match="model.safetensors: cannot be read"):
        NoPropClassifier.from_pretrained(copied)


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, (2**62).to_bytes(8, "little") + b"{}", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_weights_that_are_none_are_refused_though_their_checksum_is_right(copied, content):
    (copied / "model.safetensors").write_bytes(content)
    edit(copied, lambda values: values.update(weights_sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(UserError, match="model.safetensors: cannot be read"):
        NoPropClassifier.from_pretrained(copied)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: weights.pop("noise"), "there is no noise"),
        (lambda weights: weights.pop("blocks.1.head.1.weight"), "there is no blocks.1.head.1.weight"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "no part of the network is called extra"),
        (lambda weights: weights.update({"blocks.7.x": torch.zeros(2)}), "no part of the network is called blocks.7"),
        (lambda weights: weights.update({"blocks.0.x": torch.zeros(2)}), "no part of the network is called blocks.0.x"),
        (lambda weights: weights.update(noise=torch.zeros(0, 4, 1, 5)), r"noise has shape \(0, 4, 1, 5\)"),
        (lambda weights: weights.update(noise=torch.zeros(())), r"noise has shape \(\)"),
        (lambda weights: weights.update(noise=torch.zeros(1, 3, 1, 5)), "noise has shape"),
        (lambda weights: weights.update(coefficients=torch.zeros(2, 3)), "coefficients has shape"),
        (lambda weights: weights.update(mean=torch.zeros(3, 1, 1)), "mean has shape"),
        (lambda weights: weights.update(embedding=torch.zeros(5, 5, dtype=torch.int64)), "embedding is of dtype"),
        (lambda weights: weights.update({"classifier.weight": torch.zeros(9, 9)}), "classifier.weight has shape"),
    ],
)
def test_weights_of_another_network_are_refused(copied, change, told):
    with_weights(copied, change)
    with pytest.raises(UserError, match=f"copied: config.json and model.safetensors do not fit each other: {told}"):
        NoPropClassifier.from_pretrained(copied)


HUGE = [
    {"kind": "mlp", "width": 2**31 - 1, "depth": 1},
    {"kind": "mlp", "width": 2**16, "depth": 1},
    {"kind": "mlp", "width": 16, "depth": 1000},
    {"kind": "torchvision", "backbone": "regnet_y_128gf", "width": 8},
    {"kind": "torchvision", "backbone": "os.system"},
]
FROM_HUGE = """
import json, pathlib, resource, sys
from noprop_dist.errors import UserError
from noprop_dist.inference.classifier import NoPropClassifier
import torchvision.models
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for network in json.loads(sys.argv[2]):
    config = pathlib.Path(sys.argv[1], "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "blocks": {"count": 3, "network": network}}))
    try:
        NoPropClassifier.from_pretrained(sys.argv[1])
    except UserError as error:
        assert "config.json and model.safetensors do not fit each other" in str(error), error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_no_configuration_makes_a_machine_allocate_more_than_its_weights(copied):
    grown = python(FROM_HUGE, copied, json.dumps(HUGE))
    assert int(grown) < 100_000, "KiB"


@pytest.mark.parametrize("count", [1, 2, 4, 10_000])
def test_another_number_of_blocks_is_refused(copied, count):
    edit(copied, lambda values: values["blocks"].update(count=count))
    with pytest.raises(UserError, match="do not fit each other"):
        NoPropClassifier.from_pretrained(copied)


def test_a_folder_that_is_none_of_ours_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no such folder, and it is no name of a repository"):
        NoPropClassifier.from_pretrained(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(UserError, match="holds no config.json, so it is nothing that save_pretrained wrote"):
        NoPropClassifier.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be read"):
        NoPropClassifier.from_pretrained(tmp_path / "file")


# --- networks of a user's own ----------------------------------------------------------------------------------------

GIFT = """
import pathlib, torch
pathlib.Path(__file__).with_suffix(".ran").touch()
class OwnNetwork(torch.nn.Module):
    pass
"""


@pytest.fixture
def own(tmp_path):
    return untrained(OWN).save_pretrained(tmp_path / "own")


def test_a_network_of_a_users_own_is_handed_over_or_trusted(own):
    images = images_for(untrained(OWN), 3)
    with pytest.raises(UserError, match="class of somebody's own, untrained:OwnNetwork; hand it over as network=…"):
        NoPropClassifier.from_pretrained(own)
    expected = untrained(OWN)(images)
    assert torch.equal(NoPropClassifier.from_pretrained(own, network=OwnNetwork)(images), expected)
    assert torch.equal(NoPropClassifier.from_pretrained(own, trust_code=True)(images), expected)
    made = NoPropClassifier.from_pretrained(own, network=partial(OwnNetwork))
    assert torch.equal(made(images), expected)


@pytest.mark.parametrize("trust_code", [False, True])
def test_code_in_the_folder_is_never_run(own, trust_code, monkeypatch):
    (own / "gift.py").write_text(GIFT)
    edit(own, lambda values: values["blocks"]["network"].update(path="gift:OwnNetwork"))
    monkeypatch.syspath_prepend(own)
    monkeypatch.chdir(own)
    with pytest.raises(UserError, match="hand it over" if not trust_code else "from which no code is ever run"):
        NoPropClassifier.from_pretrained(own, trust_code=trust_code)
    assert not (own / "gift.ran").exists()


def test_a_network_that_was_handed_over_in_python_is_handed_over_again(tmp_path):
    trained = untrained(OWN)
    network = {"kind": "given", "name": "OwnNetwork"}
    trained.card["blocks"] = {"count": 3, "network": network, "networks": {}}
    folder = trained.save_pretrained(tmp_path / "given")
    with pytest.raises(UserError, match="class of somebody's own, OwnNetwork; hand it over as network=…$"):
        NoPropClassifier.from_pretrained(folder, trust_code=True)
    images = images_for(trained, 3)
    assert torch.equal(
        NoPropClassifier.from_pretrained(folder, network=partial(OwnNetwork, width=6))(images), trained(images)
    )


def test_a_class_that_is_another_than_the_trained_one_is_told(own):
    class Other(nn.Linear):
        def __init__(self, input_shape, classes, embedding_dim, width):
            super().__init__(classes, embedding_dim)

    with pytest.raises(UserError, match="do not fit each other: there is no blocks.0.bias"):
        NoPropClassifier.from_pretrained(own, network=Other)
    with pytest.raises(UserError, match="untrained:OwnNetwork could not be built: TypeError"):
        NoPropClassifier.from_pretrained(own, network=nn.Linear)
    with pytest.raises(UserError, match="network untrained:OwnNetwork: what was built is dict"):
        NoPropClassifier.from_pretrained(own, network=dict)


def test_a_classifier_without_the_settings_of_its_networks_is_not_saved(tmp_path):
    classifier = untrained(MLP)
    classifier.card.pop("blocks")
    with pytest.raises(UserError, match="card has no settings of its networks"):
        classifier.save_pretrained(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_part_in_reading_a_folder_is_refused(folder, own):
    with pytest.raises(UserError, match="network has no part in it: no block is of a class of somebody's own"):
        NoPropClassifier.from_pretrained(folder, network=OwnNetwork)
    with pytest.raises(UserError, match="revision=v1: .* is a folder of this machine; only repositories have"):
        NoPropClassifier.from_pretrained(folder, revision="v1")
    assert NoPropClassifier.from_pretrained(own, network=OwnNetwork)
