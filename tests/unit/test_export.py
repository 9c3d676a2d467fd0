"""Exported files give the probabilities of the network, on their own."""

import itertools
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from untrained import MLP, NETWORKS, images_for, python, untrained

from noprop_dist import api
from noprop_dist.cli.app import main
from noprop_dist.errors import UserError
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.export import export_classifier

KINDS = {
    **NETWORKS,
    "torchvision": [MLP, "blocks.networks.2={kind: torchvision, backbone: resnet18, width: 8}"],
    "vectors": [MLP],
}
FACTS = {"torchvision": {"shape": (3, 32, 32)}, "vectors": {"shape": (6,), "dtype": "float32"}}


def program(file):
    with file.open("rb") as opened:
        return torch.export.load(opened).module()


def onnx(file):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*given):
        fed = {name: np.asarray(tensor) for name, tensor in zip(names, given, strict=True)}
        return torch.from_numpy(session.run(["log_probabilities"], fed)[0])

    return run


READ = {"torch-export": program, "onnx": onnx}


def check(classifier, run, noise=False):
    for count in (1, 2, 7):
        given = [images_for(classifier, count, seed=count)]
        if noise:
            levels = classifier.noise.shape[1] if classifier.sampler == "stochastic" else 1
            given.append(torch.randn(classifier.passes, levels, count, classifier.noise.shape[3]))
        with torch.no_grad():
            expected = classifier(*given)
        torch.testing.assert_close(run(*given).exp(), expected.exp(), atol=2e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("format_", READ)
@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
@pytest.mark.parametrize("name", KINDS)
def test_every_network_keeps_its_probabilities(name, sampler, format_, tmp_path):
    if format_ == "onnx":
        pytest.importorskip("onnxscript")
    classifier = untrained(*KINDS[name], sampler=sampler, **FACTS.get(name, {}))
    exported = export_classifier(classifier, format_, tmp_path / "model")
    check(classifier, READ[format_](exported.path))
    assert exported.bytes == (tmp_path / "model").stat().st_size
    assert exported.largest_difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("format_", READ)
@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
def test_noise_is_an_input_where_that_is_wanted(sampler, format_, tmp_path):
    if format_ == "onnx":
        pytest.importorskip("onnxscript")
    classifier = untrained(MLP, sampler=sampler, passes=2)
    exported = export_classifier(classifier, format_, tmp_path / "model", noise="input")
    check(classifier, READ[format_](exported.path), noise=True)


@pytest.mark.slow
def test_an_onnx_file_says_what_it_is(tmp_path):
    onnx_ = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    classifier = untrained(MLP, sampler="stochastic", passes=2)
    exported = export_classifier(classifier, "onnx", tmp_path / "model.onnx", noise="input")
    model = onnx_.load(exported.path)
    onnx_.checker.check_model(model, full_check=True)
    shapes = {
        each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in model.graph.input
    }
    assert shapes == {"images": ["batch", 1, 8, 8], "noise": [2, 4, "batch", 5]}
    (facts,) = (json.loads(each.value) for each in model.metadata_props if each.key == "config.json")
    assert facts == classifier.config()


@pytest.mark.slow
def test_a_program_is_read_without_this_package(tmp_path):
    classifier = untrained(MLP, sampler="stochastic")
    exported = export_classifier(classifier, "torch-export", tmp_path / "model.pt2")
    code = """
import sys, torch
run = torch.export.load(sys.argv[1]).module()
print(run(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).exp()[0].tolist())
assert not any(name.startswith(("noprop_dist", "ray")) for name in sys.modules)
"""
    expected = classifier.predict_proba(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))[0].tolist()
    assert json.loads(python(code, exported.path, folder=tmp_path)) == pytest.approx(expected, abs=1e-6)
    extra = {"config.json": ""}
    torch.export.load(exported.path, extra_files=extra)
    assert json.loads(extra["config.json"])["id2label"]["0"] == "class 0"


@pytest.mark.slow
@pytest.mark.parametrize("format_", READ)
def test_a_file_that_cannot_be_written_is_told_as_such_and_leaves_nothing(format_, tmp_path):
    code = """
import resource, signal, sys
from noprop_dist.inference.export import export_classifier
from untrained import MLP, untrained
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    export_classifier(untrained(MLP), sys.argv[1], "model")
except OSError as error:
    print(error)
"""
    assert python(code, format_, folder=tmp_path).startswith("[Errno 27] File too large")
    assert list(tmp_path.iterdir()) == []


def test_safetensors_is_a_pretrained_folder(tmp_path):
    classifier = untrained(MLP)
    exported = export_classifier(classifier, "safetensors", tmp_path / "model")
    images = images_for(classifier, 3)
    assert torch.equal(NoPropClassifier.from_pretrained(exported.path)(images), classifier(images))
    assert exported.bytes == sum(each.stat().st_size for each in (tmp_path / "model").iterdir())


class Moody(nn.Module):
    """Its answer goes by values of its input, which no graph can hold."""

    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.linear = nn.Linear(embedding_dim, classes)

    def forward(self, x, z):
        return self.linear(z) if float(x.sum()) > 0 else self.linear(-z)


class Random(Moody):
    """It draws at random."""

    def forward(self, x, z):
        return self.linear(z) + 5 * torch.rand(len(z), self.linear.out_features)


CALLS = itertools.count()


class Frozen(Moody):
    """It is another at every call. What it is while it is traced is in the graph for good."""

    def forward(self, x, z):
        return self.linear(z) + 5 * torch.cos(torch.arange(self.linear.out_features) + 2.0 * next(CALLS))


@pytest.mark.parametrize(
    ("network", "told"), [("Moody", "this network cannot be exported"), ("Frozen", "probabilities differ")]
)
def test_a_network_that_cannot_be_exported_is_told_in_one_sentence(network, told, tmp_path):
    classifier = untrained(f"blocks.network={{kind: custom, path: 'test_export:{network}'}}")
    with pytest.raises(UserError, match=f"^format torch-export: .*{told}"):
        export_classifier(classifier, "torch-export", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"format": "pickle"}, "format pickle: allowed are torch-export, onnx, safetensors"),
        ({"format": "onnx", "noise": "pink"}, "noise pink: allowed are stored and input"),
        ({"format": "safetensors", "noise": "input"}, "noise input: safetensors has no graph"),
    ],
)
def test_choices_that_are_not_allowed_are_told(choices, told, tmp_path):
    with pytest.raises(UserError, match=told):
        export_classifier(untrained(MLP), out=tmp_path / "model", **choices)


@pytest.mark.parametrize("format_", ["torch-export", "onnx", "safetensors"])
def test_nothing_is_overwritten(format_, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is there already, and nothing is overwritten"):
        export_classifier(untrained(MLP), format_, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_package_that_is_missing_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install noprop-dist\[onnx\]"):
        export_classifier(untrained(MLP), "onnx", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_too_large_for_onnx_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("noprop_dist.inference.export.LARGEST_ONNX", 1000)
    with pytest.raises(UserError, match="format onnx: an ONNX file holds at most 2 GiB"):
        export_classifier(untrained(MLP), "onnx", tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def run(sequential):
    return sequential("blocks.count=2", MLP, "training.max_steps=12", "checkpoint.every_steps=6")


def test_the_command_exports_a_run(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "out"), "--checkpoint", "6",
              "--sampler", "stochastic", "--passes", "2", "--seed", "5"])  # fmt: skip
    told = capsys.readouterr()
    assert end.value.code == 0, told.err
    assert told.out == f"{tmp_path / 'out'}\n"
    read = NoPropClassifier.from_pretrained(told.out.strip())
    assert read.card["trained"]["step"] == 6
    assert read.card["seed"] == 5
    assert (read.sampler, read.passes) == ("stochastic", 2)
    images = images_for(read, 3)
    same = api.load(str(run), 6, sampler="stochastic", passes=2, seed=5, device="cpu")
    torch.testing.assert_close(read(images), same(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--format", "x"], "format x: allowed are"),
        (["--checkpoint", "7"], "has no checkpoint 7; allowed are last, best, 6, 12"),
        (["--checkpoint", "first"], "has no checkpoint first"),
        (["--sampler", "x"], "--sampler x: allowed are"),
        (["--passes", "0"], "--passes 0: must be at least 1"),
        (["--noise", "x"], "noise x: allowed are"),
        (["--seed", "-1"], "seed: -1 is not allowed"),
        (["--out", "s3://bucket/x"], "is a URI"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(run, option, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "x"), *option])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.replace("\n", " ").split("noprop-dist: ")[1:]
    assert told in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_", ["torch-export", "onnx", "safetensors"])
def test_a_place_where_no_export_can_be_is_named(tmp_path, format_):
    classifier = untrained(MLP)
    with pytest.raises(UserError, match=f"out={tmp_path}/none/x: there is no folder {tmp_path}/none"):
        export_classifier(classifier, format_, tmp_path / "none" / "x")
    if format_ != "safetensors":
        with pytest.raises(UserError, match=f"out={tmp_path}: is a folder; a new file is needed"):
            export_classifier(classifier, format_, tmp_path)
    assert not [*tmp_path.iterdir()]
