"""What is handed to a public function is refused in one sentence where its signature does not allow it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import noprop_dist
from noprop_dist import Callback, NoPropClassifier, RunConfig, UserError
from noprop_dist.config.arguments import checked
from noprop_dist.config.sections.base import Positive

CONFIG = RunConfig(engine={"kind": "sequential"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noprop_dist.train("digits"), r"'digits' is no RunConfig; write RunConfig.preset\('digits'\)"),
        (lambda: noprop_dist.train(None), "None is no RunConfig; write RunConfig.preset"),
        (lambda: noprop_dist.plan({"seed": 1}), "{'seed': 1} is no RunConfig; write RunConfig.preset"),
        (lambda: noprop_dist.train(CONFIG.model_copy(update={"seed": -1})), "seed: -1 is not allowed"),
        (lambda: noprop_dist.train(CONFIG, 5), "run_dir: 5 is not allowed: input should be a valid string, or"),
        (
            lambda: noprop_dist.train(np.zeros((2, 9))),
            "a value of type ndarray is no RunConfig; write",
        ),
        (lambda: noprop_dist.train(CONFIG, np.zeros((2, 9))), "run_dir: a value of type ndarray is not allowed"),
        (lambda: noprop_dist.train(CONFIG, callbacks=Callback()), "callbacks: .* is not allowed.*a tuple, or None$"),
        (lambda: noprop_dist.train(CONFIG, callbacks=[Callback]), "callbacks: .*should be an instance of Callback$"),
        (lambda: noprop_dist.train(CONFIG, address=6379), "address: 6379 is not allowed: .*valid string, or None$"),
        (lambda: noprop_dist.train(CONFIG, or_resume="no"), "or_resume: 'no' is not allowed"),
        (lambda: noprop_dist.train(CONFIG, watcher=print), "watcher: .* should be an instance of Watcher, or None"),
        (lambda: noprop_dist.resume(None), "run: None is not allowed"),
        (lambda: noprop_dist.resume("run", "training.epochs=3"), "settings: 'training.epochs=3' is not allowed"),
        (lambda: noprop_dist.inspect(None), "run: None is not allowed"),
        (lambda: noprop_dist.report(None), "run: None is not allowed"),
        (lambda: noprop_dist.merge("out", "run"), "runs: 'run' is not allowed: 'str' instances are not allowed"),
        (lambda: noprop_dist.merge("out", []), r"runs: \[\] is not allowed: .* at least 1 item"),
        (lambda: noprop_dist.compare("run"), "runs: 'run' is not allowed: 'str' instances are not allowed"),
        (lambda: noprop_dist.compare([]), r"runs: \[\] is not allowed: .* at least 1 item"),
        (lambda: noprop_dist.Result.from_path(None), "path: None is not allowed"),
        (lambda: NoPropClassifier.from_pretrained(""), "a path of a file or folder is empty"),
        (lambda: NoPropClassifier.from_pretrained(None), "folder: None is not allowed"),
        (lambda: setattr(CONFIG, "seed", 3), "seed=3: settings are fixed once they are made; RunConfig"),
        (lambda: setattr(CONFIG.training, "max_steps", 3), "max_steps=3: settings are fixed once they are made"),
        (lambda: noprop_dist.load("run", 2.0), "checkpoint: 2.0 is not allowed"),
        (lambda: noprop_dist.load("run", passes="3"), "passes: '3' is not allowed: input should be a valid integer"),
        (lambda: noprop_dist.load("run", passes=0), "passes: 0 is not allowed: input should be greater than or equal"),
        (lambda: noprop_dist.load("run", seed=-1), "seed: -1 is not allowed"),
        (lambda: noprop_dist.load("run", sampler="foo"), "sampler: 'foo' is not allowed: .*'stochastic' or 'mean'"),
        (lambda: noprop_dist.load("run", network=5), "network: 5 is not allowed: input should be callable, or None"),
        (lambda: noprop_dist.export("run", "onnx", None), "out: None is not allowed"),
        (lambda: noprop_dist.export("run", 3, "out"), "format: 3 is not allowed"),
        (lambda: noprop_dist.evaluate(3), "run: 3 is not allowed"),
        (lambda: noprop_dist.evaluate("run", "foo"), "sampler: 'foo' is not allowed"),
        (lambda: noprop_dist.predict("run", 5), "images: 5 is not allowed"),
        (
            lambda: noprop_dist.predict("run", np.zeros((2, 9))),
            r"^images: files .*; load\(run\).predict\(images\) ",
        ),
        (lambda: noprop_dist.predict("run", [torch.zeros(2, 9)]), r"^images: files are needed; load\(run\).predict"),
        (lambda: noprop_dist.predict(nn.Linear(2, 2), "a.png"), r"^run: a run is needed; .* model.predict\(images\)$"),
        (lambda: noprop_dist.load(noprop_dist.Checkpoint(3, "x")), r"^Checkpoint\(3, 'x'\): a path, as text, and a"),
        (lambda: noprop_dist.load(None), "run: None is not allowed: .*, or an instance of Result"),
        (lambda: noprop_dist.pack("out", {"name": "digits"}, print), "settings: .* should be an instance of DataSett"),
    ],
)
def test_an_argument_that_is_not_allowed_is_one_sentence(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
    assert not [*tmp_path.iterdir()]


def test_arguments_are_handed_on_as_they_are_and_numbers_of_numpy_are_numbers():
    @checked
    def function(anything, where: str | Path, passes: Positive = 1, names: Sequence[str] = ()):
        return anything, where, passes, names

    anything = object()
    assert function(anything, Path("x"), np.int64(3), names=("a",)) == (anything, Path("x"), 3, ("a",))
    with pytest.raises(TypeError, match=r"^function\(\) missing a required argument: 'where'"):
        function(1)
    with pytest.raises(UserError, match=r"passes: True is not allowed.*; names: .*"):
        function(1, "x", True, 5)
