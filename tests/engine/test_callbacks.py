"""Callbacks and trackers on a real Ray: they live in the coordinator's process, for NoProp and for the baseline."""

import json
import os
import time

import pytest
from run_facts import fingerprints, records_of

from noprop_dist.api import train
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.records import Evaluated, RoundDone
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.tracking.callback import Callback

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]
DIGITS = ["blocks.count=3", "training.max_steps=24", "checkpoint.every_steps=8", "metrics.port=null",
          "engine.device=cpu", "evaluation.samples=64", "tracking=tensorboard"]  # fmt: skip


def noting(file):
    """A callback of a class that no other process can import."""

    class Noting(Callback):
        def _note(self, **facts):
            with file.open("a") as opened:
                opened.write(json.dumps(facts) + "\n")

        def on_start(self, run):
            self._note(method="start", pid=os.getpid(), name=run.name, before=len(run.earlier))

        def on_round(self, record):
            self._note(method="round", stage=record.stage.name, step=record.step)

        def on_evaluation(self, record):
            self._note(method="evaluation", step=record.step)

        def on_end(self, record):
            self._note(method="end", step=record.step, error=record.error)

    return Noting()


@pytest.mark.parametrize("method", ["noprop", "backprop"])
def test_callbacks_and_trackers_follow_a_run_from_its_coordinator(tmp_path, method):
    file, folder = tmp_path / "notes", tmp_path / "run"
    config = load_config("digits", None, [*DIGITS, f"method={method}"])
    train(config, str(folder), callbacks=[noting(file)])
    notes = [json.loads(line) for line in file.read_text().splitlines()]
    first, *_, last = notes
    assert (first["name"], first["before"]) == ("run", 0)
    assert first["pid"] != os.getpid()
    assert last == {"method": "end", "step": 24, "error": None}
    rounds = [(each["stage"], each["step"]) for each in notes if each["method"] == "round"]
    assert sorted(rounds) == sorted((each.stage.name, each.step) for each in records_of(folder, RoundDone))
    measured = [each["step"] for each in notes if each["method"] == "evaluation"]
    assert len(measured) >= len(records_of(folder, Evaluated)) > 0
    assert in_tensorboard(folder) == len(rounds)


def in_tensorboard(folder):
    """How many losses the event file has; pictures are there, too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tracking" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["loss", "path"]
    return sum(len(events.Scalars(name)) for name in events.Tags()["scalars"] if name.startswith("loss/"))


def test_a_run_ends_early_at_the_same_step_and_with_the_same_bits_as_in_the_sequential_engine(sequential, tmp_path):
    settings = ["blocks.count=3", "training.max_steps=400", "checkpoint.every_steps=8", "metrics.port=null",
                "engine.device=cpu", "evaluation.samples=64", "training.early_stopping={patience: 2}"]  # fmt: skip
    oracle = RunDirectory(str(sequential(*settings)))
    outcome = train_on_ray(load_config("digits", None, settings), str(tmp_path / "run"), lambda _: None)
    assert (outcome.step, outcome.stopped) == (oracle.checkpoints.steps()[-1], False)
    assert outcome.step < 400
    assert RunDirectory(str(tmp_path / "run")).checkpoints.steps() == oracle.checkpoints.steps()
    for step in oracle.checkpoints.steps():
        assert fingerprints(tmp_path / "run", step) == fingerprints(oracle, step)


def test_a_run_whose_callback_hangs_ends(tmp_path):
    class Hanging(Callback):
        def on_round(self, record):
            time.sleep(3600)

    began = time.monotonic()
    config = load_config("digits", None, [*DIGITS, "tracking=[]"])
    outcome = train(config, str(tmp_path / "run"), callbacks=[Hanging()])
    assert outcome.step == 24
    assert time.monotonic() - began < 120
