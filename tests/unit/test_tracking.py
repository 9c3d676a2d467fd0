"""Callbacks and experiment trackers: what they get of a run, once each, and that they cannot harm it."""

import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from tracked import in_mlflow, in_tensorboard, in_wandb, of_the_records

from noprop_dist import api
from noprop_dist.config import extras
from noprop_dist.config.layers import load_config, to_yaml
from noprop_dist.data.dataset import DataFacts
from noprop_dist.engines.ray.callbacks import pickled, unpickled
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.records import CheckpointCompleted, Evaluated, News, ObjectiveMeasured, RoundDone, RunEnded
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.tracking import host as host_module
from noprop_dist.tracking.callback import Callback, RunInfo
from noprop_dist.tracking.figures import hyper_parameters
from noprop_dist.tracking.folders import tracking_folder
from noprop_dist.tracking.host import CallbackHost

ALL = "tracking=[tensorboard, mlflow, wandb]"
READERS = {"tensorboard": in_tensorboard, "mlflow": in_mlflow, "wandb": in_wandb}
STEPWISE = ["engine.kind=sequential", "engine.round_steps=2", "checkpoint.every_steps=4"]


class Following(Callback):
    """Notes everything that it is told, by the method's name."""

    def __init__(self):
        self.told = []

    def on_start(self, run):
        self.told.append(("on_start", run))

    def on_round(self, record):
        self.told.append(("on_round", record))

    def on_checkpoint(self, record):
        self.told.append(("on_checkpoint", record))

    def on_evaluation(self, record):
        self.told.append(("on_evaluation", record))

    def on_event(self, record):
        self.told.append(("on_event", record))

    def on_end(self, record):
        self.told.append(("on_end", record))

    def of(self, method):
        return [argument for name, argument in self.told if name == method]


@pytest.fixture
def run_info(tmp_path):
    facts = DataFacts("made up", (1, 8, 8), tuple("0123456789"), (0.0,), (1.0,),
                      {"train": 1024, "validation": 100, "test": 100}, "")  # fmt: skip
    return RunInfo("run", str(tmp_path), RunPlan(load_config("digits", None, []), facts), tmp_path / "tracking")


def hosting(callback, run, *records):
    """A host that has handed these records on; and what it said at its end."""
    host = CallbackHost([callback])
    host.start(run)
    for record in records:
        host.record(record)
    return host


def round_to(step):
    return RoundDone(
        stage=block(1), first_step=step - 1, steps=1, step=step, loss=1, error=1, gradient_norm=1, seconds=1
    )


# Callbacks


def test_a_callback_is_told_of_every_record_of_a_run_once(small_config, tmp_path):
    follows = Following()
    api.train(small_config(*STEPWISE), str(tmp_path / "run"), callbacks=[follows])
    written = RunDirectory(str(tmp_path / "run")).metrics()
    assert [record for name, record in follows.told if name != "on_start"] == written
    assert follows.told[0][0] == "on_start"
    assert {type(record) for record in follows.of("on_round")} == {RoundDone}
    assert [record.step for record in follows.of("on_checkpoint")] == [4, 8, 12]
    assert {type(record) for record in follows.of("on_evaluation")} == {Evaluated, ObjectiveMeasured}
    assert [(type(record), record.step, record.error) for record in follows.of("on_end")] == [(RunEnded, 12, None)]
    (run,) = follows.of("on_start")
    assert (run.name, run.plan.total_steps, run.earlier) == ("run", 12, ())


def test_a_run_that_goes_on_tells_what_is_new_and_has_what_was_before(small_config, tmp_path):
    first, then = Following(), Following()
    stopped = api.Watcher(stopped=lambda: any(record.step >= 6 for record in first.of("on_round")))
    assert api.train(small_config(*STEPWISE), str(tmp_path / "run"), watcher=stopped, callbacks=[first]).stopped
    before = RunDirectory(str(tmp_path / "run")).metrics()
    assert first.of("on_end")[0].stopped
    api.resume(str(tmp_path / "run"), callbacks=[then])
    (run,) = then.of("on_start")
    assert list(run.earlier) == before
    new = [record for name, record in then.told if name != "on_start"]
    assert [*before, *new] == RunDirectory(str(tmp_path / "run")).metrics()


def test_a_callback_that_raises_is_told_once_and_the_run_goes_on(small_config, tmp_path):
    class Raising(Callback):
        def on_round(self, record):
            raise RuntimeError("no more\nink")

        def on_evaluation(self, record):
            raise KeyboardInterrupt

        def on_end(self, record):
            raise SystemExit(3)

    follows, said = Following(), []
    watcher = api.Watcher(api.ProgressLines(said.append).show)
    outcome = api.train(small_config(*STEPWISE), str(tmp_path / "run"), callbacks=[Raising(), follows], watcher=watcher)
    assert (outcome.step, outcome.stopped) == (12, False)
    news = [record.text for record in RunDirectory(str(tmp_path / "run")).metrics() if isinstance(record, News)]
    assert [line for line in said if "Raising" in line] == [line for line in news if "Raising" in line]
    assert [line for line in news if "Raising" in line] == [
        "callback Raising failed in on_round: RuntimeError: no more ink; later errors of it are not told, and the run "
        "goes on",
        "callback Raising failed in on_evaluation: KeyboardInterrupt; later errors of it are not told, and the run "
        "goes on",
        "callback Raising failed in on_end: SystemExit: 3; later errors of it are not told, and the run goes on",
    ]
    assert len(follows.of("on_round")) == 24


def test_a_callback_that_cannot_begin_is_not_called_any_more(run_info):
    class Unable(Following):
        def on_start(self, run):
            raise OSError("no such device")

    callback = Unable()
    host = hosting(callback, run_info, round_to(1), RunEnded(step=1))
    (told,) = host.close(5)
    assert told == (
        "callback Unable failed in on_start: OSError: no such device; it is not called any more, and the run goes on"
    )
    assert callback.told == []


def test_a_callback_that_is_slow_holds_up_nobody_and_is_left_behind_at_the_end(run_info):
    class Slow(Callback):
        def on_round(self, record):
            go_on.wait(30)

    go_on, follows = threading.Event(), Following()
    host = CallbackHost([Slow(), follows])
    host.start(run_info)
    began = time.monotonic()
    for step in range(1, 100):
        host.record(round_to(step))
    assert time.monotonic() - began < 1
    assert host.close(0.5) == ["callback Slow was not done 0.5 s after the end of the run, and is left behind"]
    assert len(follows.of("on_round")) == 99
    go_on.set()


def test_what_is_too_much_for_a_callback_is_dropped_and_told_once(run_info, monkeypatch):
    monkeypatch.setattr(host_module, "MOST_WAITING", 3)

    class Slow(Following):
        def on_round(self, record):
            go_on.wait(30)
            super().on_round(record)

    go_on, callback = threading.Event(), Slow()
    host = hosting(callback, run_info, *map(round_to, range(1, 30)))
    (told,) = host.news()
    assert told == "callback Slow is more than 3 records behind; what comes meanwhile is not handed to it"
    go_on.set()
    host.close(5)
    assert 3 <= len(callback.of("on_round")) <= 4


def test_a_run_that_fails_tells_its_callbacks_why(small_config, tmp_path):
    follows = Following()
    settings = [*STEPWISE, "training.optimizer=sgd", "training.learning_rate=1e30"]
    with pytest.raises(TrainingError) as raised:
        api.train(small_config(*settings), str(tmp_path / "run"), callbacks=[follows])
    (end,) = follows.of("on_end")
    assert end.error == str(raised.value)


def test_a_callback_that_cannot_be_sent_is_told_in_a_sentence(tmp_path):
    callback = Following()
    sentence = "callback Following: cannot be sent to the run's coordinator: Pickling"
    with (tmp_path / "file").open("w") as callback.opened, pytest.raises(UserError, match=sentence):
        pickled([callback])
    callback.opened = None
    (sent,) = unpickled(pickled([callback]))
    assert sent.told == []
    with pytest.raises(UserError, match="callbacks: cannot be loaded where the run's coordinator is: "):
        unpickled(b"nothing that was pickled")


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    document = (Path(__file__).parents[2] / "docs" / "how-to" / "callbacks.md").read_text()
    (example,) = re.findall(r"## A callback of your own\n\n((?:    .*\n|\n)+)", document)
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(example), {"__name__": "example"})
    assert "step 20: validation accuracy" in capsys.readouterr().out


# Trackers


@pytest.fixture(scope="module")
def tracked(small_config, tmp_path_factory):
    """A run that was killed where records had gone to the trackers and no snapshot held them yet, and went on."""
    folder = tmp_path_factory.mktemp("tracked") / "run"

    class Killed(BaseException):
        pass

    def kill(progress):
        if progress.stages[1].step > 8:
            raise Killed

    with pytest.raises(Killed):
        api.train(small_config(*STEPWISE, ALL), str(folder), watcher=api.Watcher(kill))
    before = of_the_records(folder)
    api.resume(str(folder))
    assert before["loss/block-02"].keys() & of_the_records(folder)["loss/block-02"].keys(), "some was there before"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tracker", READERS)
def test_a_tracker_has_one_value_for_each_record_after_a_kill_and_a_resume(tracked, tracker):
    has, expected = READERS[tracker](tracked), of_the_records(tracked)
    assert has.keys() == expected.keys()
    for name, values in expected.items():
        assert has[name] == pytest.approx(values, rel=1e-6), name
    assert {"loss/block-03", "gradient_norm/classifier", "accuracy/test-stochastic", "objective/elbo"} <= has.keys()


@pytest.mark.slow
def test_tensorboard_has_the_pictures_and_the_hyper_parameters(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "tracking" / "tensorboard")).Reload()
    assert sorted(events.Tags()["images"]) == ["loss", "path"]
    assert events.Images("path")[0].encoded_image_string.startswith(b"\x89PNG")
    assert b"blocks.network.width" in events.summary_metadata["_hparams_/experiment"].plugin_data.content


@pytest.mark.slow
def test_mlflow_has_the_settings_the_pictures_and_the_end(tracked):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"{(tracked / 'tracking' / 'mlflow').as_uri()}")
    (run,) = client.search_runs([client.get_experiment_by_name("noprop_dist").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert (run.data.params["blocks.count"], run.data.params["training.batch_size"]) == ("3", "128")
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"loss.png", "path.png"}


@pytest.mark.slow
def test_a_run_whose_process_is_killed_outright_has_one_value_for_each_record_once_it_went_on(small_config, tmp_path):
    folder = tmp_path / "run"
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(small_config(*STEPWISE, "checkpoint.every_steps=50", "training.max_steps=400", ALL)))
    command = ["train", "--config", str(file), "--run-dir", str(folder)]
    train = subprocess.Popen([sys.executable, "-m", "noprop_dist", *command])
    while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").stat().st_size < 100_000:
        assert train.poll() is None
        time.sleep(0.01)
    train.kill()
    train.wait()
    api.resume(str(folder))
    expected = of_the_records(folder)
    assert max(expected["loss/block-03"]) == 400
    for has in (reader(folder) for reader in READERS.values()):
        assert has.keys() == expected.keys()
        assert all(has[name] == pytest.approx(values, rel=1e-6) for name, values in expected.items())


@pytest.mark.slow
def test_a_new_run_in_the_folder_of_a_deleted_one_is_a_new_mlflow_run(small_config, tmp_path):
    folder = tmp_path / "run"
    for number in range(2):
        if folder.exists():
            (folder / "tracking").rename(tmp_path / "tracking")
            folder.rename(tmp_path / "away")
            folder.mkdir()
            (tmp_path / "tracking").rename(folder / "tracking")
        api.train(small_config(*STEPWISE, f"seed={number}", "tracking=mlflow"), str(folder))
    expected = of_the_records(folder)
    assert in_mlflow(folder)["loss/block-01"] == pytest.approx(expected["loss/block-01"], rel=1e-6)


def test_a_tracker_whose_package_is_missing_is_told_before_a_run_begins(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    sentence = r"tracking=mlflow: mlflow is not installed; `pip install 'noprop-dist\[mlflow\]'` adds it"
    with pytest.raises(UserError, match=sentence):
        api.train(small_config("engine.kind=sequential", "tracking=mlflow"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=sentence):
        api.plan(small_config("tracking=mlflow"))


def test_a_folder_that_wandb_left_is_not_taken_for_the_package(small_config, tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    with pytest.raises(UserError, match="wandb is not installed"):
        extras.check_extras(small_config("tracking=wandb"))


def test_no_secret_goes_into_a_trackers_parameters():
    custom = "blocks.network={kind: custom, path: 'a:B', arguments: {api_key: abc, from: 's3://u:word@b/x?token=t'}}"
    config = load_config("digits", None, [custom, "engine.address='ray://me:hush@head:10001'"])
    shown = hyper_parameters(config)
    assert shown["blocks.network.arguments.api_key"] == "***"
    assert shown["blocks.network.arguments.from"] == "s3://b/x"
    assert shown["engine.address"] == "ray://head:10001"
    assert not any(secret in str(shown) for secret in ("abc", "word", "hush", "token=t"))
    assert shown["blocks.count"] == 10
    assert shown["metrics.port"] == 9464


def test_trackers_of_a_run_in_an_object_store_write_among_the_users_state(tmp_path, monkeypatch):
    assert tracking_folder(RunDirectory(str(tmp_path / "run"))) == tmp_path / "run" / "tracking"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = (
        tracking_folder(RunDirectory(f"s3://{bucket}/run?region=eu-west-1&endpoint_override=localhost:1"))
        for bucket in ("a", "b")
    )
    assert one.parent == tmp_path / "noprop-dist" / "tracking"
    assert one != other
    assert one.name.startswith("run-")


@pytest.mark.slow
def test_a_tracker_that_cannot_write_is_told_and_the_run_goes_on(small_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tracking").write_text("a file where a folder has to be")
    outcome = api.train(small_config(*STEPWISE, ALL), str(folder))
    assert outcome.step == 12
    told = {record.text.split()[1] for record in RunDirectory(str(folder)).metrics() if isinstance(record, News)}
    assert told == {"TensorBoardCallback", "MlflowCallback", "WandbCallback"}


SLOW_LINKS = [  # they import what a tracker is for
    pytest.param(f"tracking/{each}", marks=pytest.mark.slow) for each in ("tensorboard", "mlflow", "wandb/wandb")
]


@pytest.mark.parametrize("link", ["tracking", *SLOW_LINKS])
def test_a_link_in_a_strangers_run_lets_no_tracker_write_or_delete_elsewhere(small_config, tmp_path, link):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (folder / link).parent.mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "events.out.tfevents.mine").touch()
    (folder / link).symlink_to(elsewhere)
    api.train(small_config(*STEPWISE, ALL), str(folder))
    assert [each.name for each in elsewhere.iterdir()] == ["events.out.tfevents.mine"]
    news = [record.text for record in RunDirectory(str(folder)).metrics() if isinstance(record, News)]
    assert any("is a link; nothing is written through it" in line for line in news)


def test_checkpoints_are_told_once_even_if_a_run_goes_on(small_run):
    directory = small_run("checkpoint.every_steps=4")
    api.resume(str(directory))
    completed = [record.step for record in directory.metrics() if isinstance(record, CheckpointCompleted)]
    assert completed == [4, 8, 12]
