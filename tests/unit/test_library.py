"""The Python API: what is handed over, what comes back, and what is refused."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from run_facts import fingerprints
from torch import nn

import noprop_dist
from noprop_dist import Result, RunConfig, TrainingError, UserError, api
from noprop_dist.api import Watcher, open_run

X = np.random.default_rng(0).integers(0, 256, (80, 1, 4, 4), dtype=np.uint8)
Y = np.arange(80) % 4
SMALL = {
    "blocks": {"count": 2, "network": {"kind": "mlp", "width": 8}},
    "training": {"max_steps": 6, "batch_size": 8},
    "checkpoint": {"every_steps": 3},
    "engine": {"kind": "sequential"},
}


class Linear(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(int(np.prod(input_shape)) + embedding_dim, classes)

    def forward(self, x, z):
        return self.layer(torch.cat([x.flatten(1), z], dim=1))


@pytest.fixture
def config():
    return RunConfig(**SMALL)


def test_arrays_train_to_the_bits_of_their_npz_file(config, tmp_path):
    np.savez(tmp_path / "data.npz", x_train=X, y_train=Y)
    given = noprop_dist.train(config, tmp_path / "given", data=(X, Y))
    named = noprop_dist.train(config, tmp_path / "named", data=tmp_path / "data.npz")
    assert fingerprints(given.path) == fingerprints(named.path)


def test_a_result_has_the_figures_of_every_checkpoint(config, tmp_path):
    result = noprop_dist.train(config, tmp_path / "run", data=(X, Y))
    frame = result.metrics_dataframe
    assert frame["step"].tolist() == [3, 6]
    assert frame["loss of block 1"].notna().all()
    (_, on_test), *_ = [each for each in result.evaluation.results if each[0] == "test"]
    assert result.metrics["test_accuracy"] == frame["test_accuracy"].iloc[-1] == on_test.accuracy
    assert result.checkpoint.step == 6
    assert [(each.step, figures["step"]) for each, figures in Result.from_path(result.path).best_checkpoints] == [
        (each.step, each.step) for each, _ in result.best_checkpoints
    ]
    assert result.error is None
    assert not result.stopped
    assert Result.from_path(result.path).metrics == result.metrics


@pytest.mark.parametrize("score", ["validation accuracy", "validation cross-entropy", None])
def test_the_best_checkpoint_stands_first(tmp_path, score):
    kept = {"every_steps": 2, "num_to_keep": 9, **({"score": score} if score else {})}
    result = noprop_dist.train(RunConfig(**{**SMALL, "checkpoint": kept}), tmp_path / "run", data=(X, Y))
    column = "cross_entropy" if score == "validation cross-entropy" else "validation_accuracy"
    figures = [figures[column] for _, figures in result.best_checkpoints]
    assert sorted(each.step for each, _ in result.best_checkpoints) == [2, 4, 6]
    assert figures == sorted(figures, reverse=column == "validation_accuracy")
    assert api.open_run(result, checkpoint="best").step == result.best_checkpoints[0][0].step


def test_checkpoints_without_figures_stand_last_the_newest_first(tmp_path):
    unmeasured = RunConfig(**SMALL, evaluation={"samples": 0})
    result = noprop_dist.train(unmeasured, tmp_path / "run", data=(X, Y))
    assert [each.step for each, _ in result.best_checkpoints] == [6, 3]


def test_a_run_is_named_by_its_path_its_result_or_a_checkpoint(tmp_path):
    result = noprop_dist.train(RunConfig(**SMALL), tmp_path / "run")
    first = min((each for each, _ in result.best_checkpoints), key=lambda each: each.step)
    for run in (result.path, tmp_path / "run", result):
        assert noprop_dist.evaluate(run).step == 6
        assert noprop_dist.evaluate(run, checkpoint=3).step == noprop_dist.evaluate(run, checkpoint="3").step == 3
        assert noprop_dist.inspect(run).manifest.step == 6
        assert noprop_dist.resume(run).step == 6
        assert noprop_dist.report(run).place.endswith("report.html")
        with pytest.raises(UserError, match="has no checkpoint 4; allowed are last, best, 3, 6"):
            noprop_dist.predict(run, tmp_path / "x.png", checkpoint=4)
    assert noprop_dist.evaluate(first).step == 3
    assert noprop_dist.export(first, "safetensors", tmp_path / "model").bytes
    with pytest.raises(UserError, match="checkpoint best: the run is given as its checkpoint of step 3 already"):
        noprop_dist.load(first, "best")
    for use in (noprop_dist.evaluate, noprop_dist.inspect, noprop_dist.resume, noprop_dist.report, noprop_dist.load):
        with pytest.raises(UserError, match="run: 5 is not allowed: .* an instance of Result"):
            use(5)


def test_a_report_has_what_was_handed_over_again_and_says_what_it_lacks(config, tmp_path):
    run = noprop_dist.train(config, tmp_path / "run", data=(X, Y), network=Local())
    assert "its network was handed over" in noprop_dist.report(run).left_out
    assert "its network was handed over" in noprop_dist.report(run, data=(X, Y)).left_out
    assert "data was handed over" in noprop_dist.report(run, network=Local()).left_out
    assert not (tmp_path / "run" / "plots" / "parts.png").exists()
    assert noprop_dist.report(run, data=(X, Y), network=Local()).left_out is None
    assert (tmp_path / "run" / "plots" / "parts.png").exists()
    with pytest.raises(UserError, match="was trained on other data"):
        noprop_dist.report(run, data=(255 - X, Y), network=Local())


def test_a_run_goes_on_with_what_was_handed_over_and_says_what_it_lacks(config, tmp_path):
    said = []
    stop = iter([False] * 4 + [True] * 99)
    watcher = Watcher(say=said.append, stopped=lambda: next(stop))
    begun = noprop_dist.train(config, tmp_path / "run", data=(X, Y), network=Local(), watcher=watcher)
    assert begun.stopped
    assert "to resume or evaluate this run, hand over again data=… and network=…: it lies in no file" in said
    with pytest.raises(UserError, match=r"data.name=given: the data was handed over in Python.*\(data=…\)"):
        noprop_dist.resume(begun.path, network=Local())
    with pytest.raises(UserError, match=r"the network Local was handed over in Python.*\(network=…\)"):
        noprop_dist.resume(begun.path, data=(X, Y))
    with pytest.raises(UserError, match="fingerprint of the training samples"):
        noprop_dist.resume(begun.path, data=(255 - X, Y), network=Local())
    ended = noprop_dist.resume(begun.path, data=(X, Y), network=Local())
    undisturbed = noprop_dist.train(config, tmp_path / "other", data=(X, Y), network=Local())
    assert fingerprints(ended.path) == fingerprints(undisturbed.path)


class Local:
    """Builds networks, and can be imported by no other process."""

    __qualname__ = "Local"

    def __call__(self, **shapes):
        return Linear(**shapes)


def test_a_class_that_every_process_imports_is_named_by_its_path(config, tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text("from test_library import Linear\nclass Mine(Linear):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    mine = __import__("my_networks").Mine
    result = noprop_dist.train(config, "run", data=(X, Y), network=mine)
    assert noprop_dist.inspect("run").config.blocks.network.path == "my_networks:Mine"
    assert noprop_dist.resume(result.path, data=(X, Y)).step == 6
    assert noprop_dist.resume(result.path, data=(X, Y), network=mine).step == 6
    with pytest.raises(UserError, match="network: is Linear, this run's networks are my_networks:Mine; leave it out"):
        noprop_dist.resume(result.path, data=(X, Y), network=Linear)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(UserError, match="would import my_networks:Mine .* --trust-code .trust_code=True. allows it"):
        noprop_dist.load(result.path)
    assert noprop_dist.load(result.path, network=mine), "who hands a class over trusts it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": 5}, "data: train is int; allowed are"),
        (
            {"data": "mnits"},
            "data: there is no file or folder 'mnits', and no data set of that name; did you mean mnist",
        ),
        ({"data": "nowhere"}, "data: there is no file or folder 'nowhere', and .* named ones are digits, mnist"),
        ({"data": ""}, "data: there is no file or folder ''"),
        ({"data": Path("digits")}, "no file or folder digits; a Path means one of these, and text, data='digits', the"),
        ({"data": (torch.rand(9, 4, device="meta"), Y[:9])}, "data: x of train: is a tensor on the meta device"),
        ({"data": (torch.rand(9, 4).to_sparse(), Y[:9])}, "data: x of train: is a sparse_coo tensor; a dense one is"),
        ({"data": __file__}, "data: .* is a file; allowed are .npz files, image folders and packed folders"),
        ({"data": (X, Y), "network": 5}, "network: 5 is not allowed: input should be callable"),
        ({"data": (X, Y), "network": lambda **_: 5}, "what was built is int, no torch.nn.Module"),
        ({"data": (X, Y), "network": lambda: None}, "could not be built: TypeError"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_leaves_nothing(config, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        noprop_dist.train(config, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_run_directory_that_is_a_file_is_refused(config, tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"{place}: .*is a file; a run directory is a new folder$"):
        noprop_dist.train(config, tmp_path / place, data=(X, Y))
    assert not capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_on_data_that_was_handed_over_is_evaluated_on_it(config, tmp_path):
    result = noprop_dist.train(config, tmp_path / "run", data=(X, Y))
    measured = noprop_dist.evaluate(tmp_path / "run", data=(X, Y)).accuracy
    assert measured.accuracy == result.metrics["test_accuracy"]
    with pytest.raises(UserError, match="was trained on other data"):
        noprop_dist.evaluate(tmp_path / "run", data=(255 - X, Y))
    with pytest.raises(UserError, match=r"`noprop-dist predict` and load\(run\).predict\(images\) take any other$"):
        noprop_dist.evaluate(tmp_path / "run", data=(X[:40], Y[:40]))
    with pytest.raises(UserError, match="data: 'digits' is a name; the data of this run was handed over"):
        noprop_dist.evaluate(tmp_path / "run", data="digits")
    with pytest.raises(UserError, match=r"hand it over again \(data=…\)"):
        noprop_dist.evaluate(tmp_path / "run")


def test_data_that_has_a_name_is_not_handed_over_again(config, tmp_path):
    run = noprop_dist.train(config, tmp_path / "run", callbacks=None)
    with pytest.raises(UserError, match="data: this run reads data.name=digits"):
        noprop_dist.resume(run.path, data=(X, Y), callbacks=None)
    with pytest.raises(UserError, match=r"load\(run\).predict\(images\) takes other images"):
        noprop_dist.evaluate(run, data=(X, Y))
    assert noprop_dist.evaluate(run, data_root=tmp_path).notes[0].startswith("data.root: no effect")
    with pytest.raises(UserError, match="network: is Linear, this run's networks are mlp; leave it out"):
        noprop_dist.resume(run.path, network=Linear)


def test_a_run_that_ended_early_was_not_stopped(tmp_path):
    early = {
        **SMALL,
        "training": {"max_steps": 30, "batch_size": 8, "early_stopping": {"patience": 1, "min_delta": 1.0}},
    }
    result = noprop_dist.train(RunConfig(**early), tmp_path / "run", data=(X, Y))
    assert result.step < 30
    assert not result.stopped
    best = result.best_checkpoints[0][0].step
    assert noprop_dist.evaluate(result, checkpoint="best", data=(X, Y)).step == best < result.step
    noprop_dist.report(result)
    assert f"step {best}, by validation accuracy" in (tmp_path / "run" / "report.html").read_text()
    assert not Result.from_path(result.path).stopped


def test_a_result_tells_what_its_run_has_become_and_from_path_the_same(config, tmp_path):
    result = noprop_dist.train(config, tmp_path / "run", data=(X, Y))

    def told(result):
        figures = [(each.step, metrics["step"]) for each, metrics in result.best_checkpoints]
        return result.step, result.stopped, result.metrics, result.checkpoint, result.evaluation, sorted(figures)

    assert told(Result.from_path(tmp_path / "run")) == told(result)
    assert (result.step, result.checkpoint.step, result.metrics["step"], result.evaluation.step) == (6, 6, 6, 6)
    assert result.evaluation.terms.objective == result.metrics["objective"]
    longer = noprop_dist.resume(result, ["training.max_steps=12"], data=(X, Y))
    assert told(result) == told(longer)
    assert (result.step, result.checkpoint.step, result.metrics["step"], result.evaluation.step) == (12, 12, 12, 12)
    assert (result.stopped, noprop_dist.load(result).card["trained"]["step"]) == (False, 12)


def test_a_failed_run_tells_its_error(config, tmp_path):
    class Fails(Linear):
        def forward(self, x, z):
            if self.training and len(x) == 8:
                raise RuntimeError("no such luck")
            return super().forward(x, z)

    with pytest.raises(TrainingError, match="block 1 was stopped: RuntimeError: no such luck"):
        noprop_dist.train(config, tmp_path / "run", data=(X, Y), network=Fails)
    assert "no such luck" in str(Result.from_path(tmp_path / "run").error)


def test_presets_take_other_values():
    config = RunConfig.preset("digits", blocks={"count": 3})
    assert (config.blocks.count, config.checkpoint.snapshot_every_steps) == (3, 160)
    with pytest.raises(UserError, match="blocks.cuont: there is no such setting; did you mean count"):
        RunConfig.preset("digits", blocks={"cuont": 3})
    with pytest.raises(UserError, match="seed: -1 is not allowed"):
        RunConfig(seed=-1)


def test_the_package_is_imported_without_torch_or_ray():
    code = "import sys, noprop_dist; noprop_dist.RunConfig; print({'torch', 'ray'} & {*sys.modules}, dir(noprop_dist))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("set()")
    assert "train" in told


def test_every_public_name_is_there():
    assert all(getattr(noprop_dist, name).__doc__ for name in noprop_dist.__all__)
    modules = {each.name for each in pkgutil.iter_modules(noprop_dist.__path__)}
    assert not modules & {*noprop_dist.__all__}, "once it is imported, a module takes the place of the name"
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        noprop_dist.trian  # noqa: B018


def test_a_cluster_that_has_no_part_in_a_run_is_told(config, tmp_path):
    warned = []
    noprop_dist.train(config, tmp_path / "run", address="10.0.0.1:6379", watcher=Watcher(warn=warned.append))
    noprop_dist.resume(tmp_path / "run", address="10.0.0.1:6379", watcher=Watcher(warn=warned.append))
    assert warned == ["engine.address: no effect with engine.kind=sequential"] * 2


def test_data_goes_by_its_name_though_a_folder_has_it_too(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    noprop_dist.train(config, "run", data="digits")
    assert noprop_dist.inspect("run").config.data.name == "digits"


def test_a_run_that_is_open_takes_no_other_network(config, tmp_path):
    noprop_dist.train(config, tmp_path / "run", network=Local())
    assert noprop_dist.evaluate(tmp_path / "run", network=Local()).step == 6
    opened = open_run(tmp_path / "run", network=Local())
    with pytest.raises(UserError, match="network: has no part in it where the run is open already"):
        noprop_dist.evaluate(opened, network=Local())


def test_a_pretrained_folder_has_the_bits_of_the_run_on_a_cpu(tmp_path):
    settings = {**SMALL, "blocks": {"count": 2, "network": {"kind": "small-conv"}}}
    run = noprop_dist.train(RunConfig(**settings), tmp_path / "run")
    model = noprop_dist.load(run, device="cpu")
    model.save_pretrained(tmp_path / "model")
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, *model.input_shape), dtype=np.uint8))
    read = noprop_dist.NoPropClassifier.from_pretrained(tmp_path / "model", device="cpu")
    assert torch.equal(read.predict_proba(images), model.predict_proba(images))
