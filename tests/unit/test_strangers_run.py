"""A run directory of a stranger's executes nothing, and nothing is read or written outside of it."""

import io
import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import yaml
from pyarrow import ArrowInvalid, fs

from noprop_dist import api
from noprop_dist.cli.inspect import show_run
from noprop_dist.data.load import load_again
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.files import SENT_FOLDER, JsonObject
from noprop_dist.models import custom
from noprop_dist.models.custom import locate, never_import_from
from noprop_dist.printable import without_secrets
from noprop_dist.records import Evaluated
from noprop_dist.reporting.plots import accuracy_over_steps
from noprop_dist.storage import store
from noprop_dist.storage.local_files import RefusedPathError
from noprop_dist.storage.lock import LOCK
from noprop_dist.storage.manifest import Manifest, SnapshotEntry
from noprop_dist.storage.object_files import ObjectFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import StorageError, Store
from noprop_dist.storage.trust import check_settings, remember

NETWORK = """
import pathlib, torch
pathlib.Path(__file__).with_suffix(".ran").touch()
class Net(torch.nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.linear = torch.nn.Linear(embedding_dim, classes)
    def forward(self, x, z):
        return self.linear(z)
"""
NUMBER = iter(range(1000))


@pytest.fixture
def standing_in(tmp_path, monkeypatch):
    """The working directory, from which modules are searched last, as in a fresh process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(custom, "_no_code_in", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def module(standing_in):
    """A network in a module that no other test has imported."""
    name = f"network_{next(NUMBER)}"
    (standing_in / f"{name}.py").write_text(NETWORK)
    return name


def ran(folder: Path) -> bool:
    return any(folder.rglob("*.ran"))


@pytest.mark.parametrize("path", ["gift.net:Net", "gift.deep.net:Net", "gift:Net", "linked:Net", "link.net:Net"])
def test_code_in_a_run_directory_is_found_by_no_name_and_not_run(standing_in, path):
    gift = standing_in / "gift"
    (gift / "deep").mkdir(parents=True)
    for file in ("__init__.py", "net.py", "deep/net.py"):
        (gift / file).write_text(NETWORK)
    (standing_in / "linked.py").symlink_to(gift / "net.py")
    (standing_in / "link").symlink_to(gift)
    never_import_from(gift)
    with pytest.raises(UserError, match="lies in the run directory"):
        locate(path)
    assert not ran(standing_in)


def test_code_outside_is_refused_where_a_link_in_a_run_directory_leads_to_it(standing_in):
    (standing_in / "gift").mkdir()
    (standing_in / "elsewhere.py").write_text(NETWORK)
    (standing_in / "gift" / "net.py").symlink_to(standing_in / "elsewhere.py")
    never_import_from(standing_in / "gift")
    with pytest.raises(UserError, match="lies in the run directory"):
        locate("gift.net:Net")


def test_a_path_that_leads_into_a_run_directory_is_refused(standing_in, monkeypatch):
    (standing_in / "gift").mkdir()
    (standing_in / "gift" / "found_by_path.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(standing_in / "gift")
    never_import_from(standing_in / "gift")
    with pytest.raises(UserError, match="lies in the run directory"):
        locate("found_by_path:Net")


def test_a_working_directory_within_a_run_directory_is_not_searched(standing_in, monkeypatch):
    gift = standing_in / "gift"
    gift.mkdir()
    monkeypatch.chdir(gift)
    never_import_from(gift)
    with pytest.raises(UserError, match="no module"):
        locate("nosuchmodule:Net")
    assert str(gift) not in sys.path


@pytest.mark.parametrize("path", ["evil:Net", "inner.evil:Net"])
def test_a_network_in_a_run_directory_that_is_the_working_directory_is_told_to_lie_there(
    standing_in, monkeypatch, path
):
    gift = standing_in / "gift"
    (gift / "inner").mkdir(parents=True)
    for file in ("evil.py", "inner/evil.py"):
        (gift / file).write_text(NETWORK)
    monkeypatch.chdir(gift)
    never_import_from(gift)
    with pytest.raises(UserError, match="lies in the run directory .*gift, from which no code is ever run"):
        locate(path)
    assert not ran(standing_in)


def test_a_folder_that_a_driver_sends_is_searched_for_networks_alone_and_last(standing_in, monkeypatch):
    project = standing_in / "project"
    project.mkdir()
    for name in ("sent_network", "yaml"):
        (project / f"{name}.py").write_text(NETWORK)
    monkeypatch.setattr(sys, "path", [SENT_FOLDER + str(project), *sys.path])
    assert PathFinder.find_spec("sent_network") is None
    assert locate("sent_network:Net") == str(project / "sent_network.py")
    assert Path(PathFinder.find_spec("yaml").origin).parent != project


def test_to_locate_a_module_runs_neither_it_nor_the_packages_around_it(standing_in):
    (standing_in / "outer" / "inner").mkdir(parents=True)
    for file in ("__init__.py", "inner/__init__.py", "inner/net.py"):
        (standing_in / "outer" / file).write_text(NETWORK)
    assert locate("outer.inner.net:Net") == str(standing_in / "outer" / "inner" / "net.py")
    assert not ran(standing_in)


@pytest.fixture
def trained(small_config, module, standing_in):
    """A run of this machine with a network of the user's own."""
    network = f"blocks.network={{kind: custom, path: '{module}:Net'}}"
    api.train(small_config("engine.kind=sequential", network), "run")
    (standing_in / f"{module}.ran").unlink()
    return module


@pytest.mark.parametrize("use", [api.open_run, api.report, api.resume])
@pytest.mark.usefixtures("undrawn")
def test_a_network_that_this_machine_did_not_train_with_takes_trust(trained, standing_in, monkeypatch, use):
    monkeypatch.setenv("XDG_STATE_HOME", str(standing_in / "of another user"))
    monkeypatch.delitem(sys.modules, trained)
    if use is api.resume:
        for file in (standing_in / "run" / "checkpoints").rglob("manifest.json"):
            file.unlink()
    with pytest.raises(UserError, match=rf"would import {trained}:Net \(.*{trained}.py\).* --trust-code.*allows it"):
        use("run")
    assert not ran(standing_in)
    use("run", trust_code=True)
    assert ran(standing_in)


def test_a_network_that_this_machine_trained_with_takes_none(trained, standing_in):
    assert api.open_run("run").network.facts.classes == 10
    (note,) = (standing_in / "state" / "noprop-dist").iterdir()
    assert note.stat().st_mode & 0o077 == 0


def test_trust_ends_where_the_file_or_the_arguments_are_others(trained, standing_in, monkeypatch):
    (standing_in / "gift").mkdir()
    (standing_in / f"{trained}.py").rename(standing_in / "gift" / f"{trained}.py")
    (standing_in / "run").rename(standing_in / "gift" / "run")
    monkeypatch.delitem(sys.modules, trained)
    monkeypatch.chdir(standing_in / "gift")
    with pytest.raises(UserError, match="--trust-code"):
        api.open_run("run")


def test_what_others_can_write_is_no_note_of_this_user(trained, standing_in):
    (note,) = (standing_in / "state" / "noprop-dist").iterdir()
    note.chmod(0o666)
    with pytest.raises(UserError, match="--trust-code"):
        api.open_run("run")


def test_without_a_home_runs_are_trained_and_looked_at_with_trust(small_config, module, monkeypatch):
    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    network = f"blocks.network={{kind: custom, path: '{module}:Net'}}"
    with monkeypatch.context() as without:
        without.setattr(Path, "expanduser", lambda path: homeless(path) if str(path).startswith("~") else path)
        api.train(small_config("engine.kind=sequential", network), "run")
        with pytest.raises(UserError, match="--trust-code"):
            api.open_run("run")
        assert api.open_run("run", trust_code=True).network is not None


@pytest.mark.parametrize(
    ("setting", "usual"),
    [
        ("engine.address=evil:6379", "null"),
        ("metrics.discovery=/etc/prometheus", "null"),
        ("metrics.host=0.0.0.0", "127.0.0.1"),
    ],
)
def test_resume_takes_no_cluster_folder_or_open_port_from_a_strangers_run(copied_run, setting, usual):
    directory = copied_run()
    config = Path(directory.root, "config.yaml")
    section, key, value = *setting.partition("=")[0].split("."), setting.partition("=")[2]
    values = yaml.safe_load(config.read_text())
    values[section][key] = value
    values["metrics"]["port"] = 0
    values["engine"]["kind"] = "ray"  # none has an effect on the sequential engine
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=f"would use {setting}.*--trust-code"):
        api.resume(directory.root)
    api.resume(directory.root, [f"{section}.{key}={usual}"])


NAMES = ["../../victim", "/etc/passwd", "block-01/../../x", "", "manifest", "block-", "block-1²", 3, None]


def test_nothing_is_downloaded_to_where_a_strangers_run_says(copied_run, tmp_path):
    run, root = copied_run(), tmp_path / "elsewhere"
    config = Path(run.root) / "config.yaml"
    config.write_text(config.read_text().replace("name: digits", "name: mnist").replace("root: null", f"root: {root}"))
    assert run.config().data.download
    with pytest.raises(UserError, match="it is not to be downloaded"):
        load_again(run.config().data, run.facts(), str(run))
    with pytest.raises(UserError, match=f"resuming it would use data.root={root}, which no `train` on this machine"):
        check_settings(run.config(), run, [])
    check_settings(run.config(), run, [f"data.root={root}"])
    (root / "MNIST").mkdir(parents=True)
    check_settings(run.config(), run, [])


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_names_no_files_but_those_of_stages(copied_run, name):
    directory = copied_run()
    entry = directory.checkpoints.manifest().stages[0].to_json(3)
    with pytest.raises(ValueError, match="no name of a stage's files"):
        SnapshotEntry.from_json(JsonObject({**entry, "name": name}))


@pytest.mark.parametrize("step", ["../../x", -1, 1.5, True, None, 10**30])
def test_a_manifest_knows_no_step_but_a_number(copied_run, step):
    manifest = copied_run().checkpoints.manifest()
    with pytest.raises(ValueError, match="no number of steps"):
        Manifest.from_json(JsonObject({**manifest.to_json(3), "step": step}))
    with pytest.raises(ValueError, match="no number of steps"):
        SnapshotEntry.from_json(JsonObject({**manifest.stages[0].to_json(3), "step": step}))


def test_folders_and_entries_of_other_names_are_passed_over(copied_run):
    directory = copied_run()
    before = directory.checkpoints.saved_steps()
    checkpoints = Path(directory.root, "checkpoints")
    for name in ("step-00000001²", "step-1", "step-0000000x", "99"):
        (checkpoints / name).mkdir()
    (next(checkpoints.glob("step-*12")) / "evil name.json").write_text("{}")
    assert directory.checkpoints.saved_steps() == before


DEEDS = {
    "write": lambda store, name: store.write(name, b"new"),
    "append": lambda store, name: store.append(name, b"new"),
    "read": lambda store, name: store.read(name),
    "delete": lambda store, name: store.delete(name),
    "lock": lambda store, name: store.open_to_lock(name),
    "names": lambda store, name: store.names(name.rpartition("/")[0]),
    "delete_link": lambda store, name: store.delete_folder(name.rpartition("/")[0]),
    "delete_folder": lambda store, name: store.delete_folder(name.rpartition("/")[0] + "/inner"),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_link_to_a_folder_is_followed_by_nothing(tmp_path, deed):
    victim = tmp_path / "victim"
    (victim / "inner").mkdir(parents=True)
    (victim / "file").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(victim)
    with pytest.raises(RefusedPathError, match="checkpoints is a symbolic link; links in a run directory are not"):
        DEEDS[deed](Store(str(tmp_path / "run")), "checkpoints/file")
    assert (victim / "file").read_text() == "precious"
    assert sorted(file.name for file in victim.iterdir()) == ["file", "inner"]


@pytest.mark.parametrize("deed", ["append", "read", "lock"])
def test_a_link_to_a_file_is_refused(tmp_path, deed):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").symlink_to(tmp_path / "victim")
    with pytest.raises(RefusedPathError, match="file is a symbolic link"):
        DEEDS[deed](Store(str(tmp_path / "run")), "file")
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["file", "file.partial"])
def test_writing_replaces_a_link_and_leaves_what_it_leads_to(tmp_path, name, link):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    link(tmp_path / "victim", tmp_path / "run" / name)
    Store(str(tmp_path / "run")).write("file", b"new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "run" / "file").read_text() == "new"


@pytest.mark.parametrize("deed", ["append", "lock"])
def test_a_hard_link_is_not_written_through(tmp_path, deed):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    os.link(tmp_path / "victim", tmp_path / "run" / "file")
    with pytest.raises(RefusedPathError, match="run/file: has another name, too"):
        DEEDS[deed](Store(str(tmp_path / "run")), "file")
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_run_directory_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for root in (str(tmp_path / "run"), f"file://{tmp_path}/run"):
        Store(root).write("folder/file", b"new")
        assert Store(root).read("folder/file") == b"new"


def test_a_lock_that_is_a_link_is_told_and_its_target_kept(copied_run, tmp_path):
    directory = copied_run()
    (tmp_path / "victim").write_text("precious")
    Path(directory.root, LOCK).unlink(missing_ok=True)
    Path(directory.root, LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="run.lock is a symbolic link"), directory.only_writer():
        pass
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("deed", ["read", "append", "lock"])
def test_a_pipe_is_not_waited_for(tmp_path, deed):
    os.mkfifo(tmp_path / "file")
    with pytest.raises(OSError, match=r"no regular file|No such device"):
        DEEDS[deed](Store(str(tmp_path)), "file")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", "", ".", "a\0b"])
@pytest.mark.parametrize("deed", ["write", "append", "read", "delete", "lock"])
def test_no_name_leads_out_of_the_root(tmp_path, name, deed):
    (tmp_path / "run").mkdir()
    with pytest.raises(RefusedPathError, match="no name of a file"):
        DEEDS[deed](Store(str(tmp_path / "run")), name)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_what_ray_train_left_is_deleted_unread_and_no_link_is_followed(copied_run, tmp_path):
    directory = copied_run()
    left = Path(directory.root, "ray-train")
    (left / "checkpoint_1").mkdir(parents=True)
    (left / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_dir_name": "/home"}')
    directory.without_ray_train()
    assert not left.exists()
    directory.without_ray_train()
    (tmp_path / "victim").mkdir()
    left.symlink_to(tmp_path / "victim")
    with pytest.raises(RefusedPathError, match="ray-train is a symbolic link"):
        directory.without_ray_train()
    assert (tmp_path / "victim").is_dir()


def test_a_run_begins_in_no_folder_that_holds_what_ray_train_left(tmp_path):
    (tmp_path / "gift" / "ray-train" / "checkpoint_1").mkdir(parents=True)
    with pytest.raises(UserError, match="holds ray-train but no config.yaml"):
        RunDirectory(str(tmp_path / "gift")).check_unused()


SECRET = "s3://AKIAKEY:sec%2Fret@bucket/runs/one?region=eu-west-1&scheme=https"


def test_the_name_of_a_store_has_no_secret_and_its_link_what_opens_it():
    directory = RunDirectory(SECRET)
    assert str(directory) == "s3://bucket/runs/one"
    assert directory.link == "s3://bucket/runs/one?region=eu-west-1&scheme=https"
    assert directory.root == SECRET
    command = "`noprop-dist resume 's3://bucket/runs/one?region=eu-west-1&scheme=https'`"
    assert directory.resume_command == f"{command} (with the credentials in the environment)"


@pytest.mark.parametrize(
    "uri", ["s3://AKIAKEY:sec/ret@bucket/x", "s3://AKIAKEY:secret@bucket/x?nosuch=secret", "nosuch://me:secret@host/x"]
)
def test_a_uri_that_cannot_be_opened_is_told_without_its_secret(uri):
    with pytest.raises(UserError, match=r"(bucket|host)/x: is no path or URI") as error:
        Store(uri)
    assert not {word for word in ("AKIAKEY", "secret", "sec/ret", "/ret") if word in str(error.value)}


def test_files_in_an_object_store_are_written_and_deleted():
    store = fs._MockFileSystem()
    store.create_dir("bucket/run/folder")  # object stores have no folders, and this one does
    files = ObjectFiles(store, "bucket/run")
    files.write("folder/file", b"one")
    files.write("folder/file", b"one two")
    files.write("folder/new", b"three")
    assert files.read("folder/file", 1) == b"ne two"
    assert (files.names("folder"), files.size("folder/new")) == (["file", "new"], 5)
    files.delete("folder/file")
    files.delete_folder("folder")
    assert not files.exists("folder/new")
    assert files.names("folder") == []
    with pytest.raises(RefusedPathError, match="no name of a file"):
        files.read("../file")


@pytest.mark.parametrize("kind", [OSError, ArrowInvalid])
def test_an_error_of_a_store_is_told_in_one_line_without_its_secret(monkeypatch, kind):
    class Failing:
        def get_file_info(self, path):
            raise kind(f"{SECRET}\n does not answer")

    monkeypatch.setattr(store, "open_uri", lambda _: (Failing(), "bucket"))
    told = r"^s3://bucket/run/file: s3://bucket/runs/one\?region=eu-west-1&scheme=https does not answer$"
    with pytest.raises(StorageError, match=told):
        Store("s3://bucket/run").exists("file")


def test_an_option_of_a_uri_is_shown_where_it_is_known_to_be_no_secret():
    uri = "abfs://container@account/run?sas_token=hidden&scheme=https&region=me@secret#hidden"
    assert without_secrets(uri) == "abfs://account/run?scheme=https"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3:/AKIAKEY:sec/ret@bucket/x: no file", "s3:/bucket/x: no file"),
        ("s3:////AKIAKEY:secret@bucket/x", "s3:////bucket/x"),
        ("s3://AKIAKEY:secret: no @", "s3:// no @"),
        ("s3://AKIAKEY:secret/and more", "s3:// more"),
        ("https:/host/d.npz?sig=secret", "https:/host/d.npz"),
        *[(plain, plain) for plain in ("http://host:8265: nobody", "http://[::1]:80/x", "ray://10.0.0.1:10001.",
                                       "/data/exp:/lr:0.1/run", "C:/x:y", "file:///a:b/c", "s3://bucket/a:b/c")],
    ],
)  # fmt: skip
def test_a_uri_that_is_written_wrong_shows_no_secret_either(text, shown):
    assert without_secrets(text) == shown


@pytest.mark.parametrize("kind", [UserError, TrainingError])
def test_no_error_shows_a_secret(kind):
    assert str(kind(f"{SECRET}: slow; again {SECRET}, http://host:8265/jobs")) == (
        "s3://bucket/runs/one?region=eu-west-1&scheme=https: slow; again "
        "s3://bucket/runs/one?region=eu-west-1&scheme=https, http://host:8265/jobs"
    )


@pytest.mark.usefixtures("undrawn")
def test_a_secret_in_a_setting_is_in_no_report_and_no_json(copied_run, capsys):
    directory = copied_run()
    config = Path(directory.root, "config.yaml")
    config.write_text(config.read_text().replace("address: null", f"address: {SECRET}"))
    api.report(directory.root)
    show_run(directory.root, as_json=True)
    shown = Path(directory.root, "report.html").read_text() + capsys.readouterr().out
    assert shown.count("s3://bucket/runs/one") == 2
    assert not {word for word in ("AKIAKEY", "sec%2Fret") if word in shown}


def test_a_folder_in_a_command_is_quoted(tmp_path):
    directory = RunDirectory(str(tmp_path / "[/old] exp"))
    assert directory.resume_command == f"`noprop-dist resume '{tmp_path}/[/old] exp'`"


@pytest.mark.parametrize("name", ["$10_to_$20", "$5", r"\$a_$b^^$", "$\\nosuch$", "a\x1b[2J"])
def test_no_name_is_a_formula_in_a_picture(name):
    evaluated = Evaluated(step=1, time=0.0, split=name, sampler="mean", samples=1, accuracy=0.5,
                          nearest_embedding_accuracy=0.5, passes=1, final=True)  # fmt: skip
    figure = accuracy_over_steps([evaluated])
    figure.savefig(io.BytesIO(), format="png")


@pytest.mark.slow
def test_files_of_the_working_directory_take_no_modules_place(tmp_path, copied_run):
    copied_run(name="gift")
    gift = tmp_path / "gift"
    for module in ("numpy", "yaml", "typer", "rich", "json", "secrets", "torch", "cupy", "random"):
        (gift / f"{module}.py").write_text(f"open('PWNED', 'a').write('{module} ')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "noprop_dist", "inspect", ".", "--json"]
    done = subprocess.run(command, cwd=gift, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["blocks"]) == 3
    assert not (gift / "PWNED").exists()


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (["engine.address=1.2.3.4:5:6"], True),
        (["engine.address=1.2.3.4:5", "metrics.host=0.0.0.0", "engine.kind=sequential"], False),
        (["engine.kind=sequential", "blocks.network={kind: custom, path: 'torch.nn:Linear'}"], True),
        (["engine.kind=sequential", "training.init_from=nowhere"], True),
    ],
)
def test_what_train_names_is_noted_only_if_it_is_used(standing_in, small_config, settings, refused):
    config = small_config(*settings)
    if refused:
        with pytest.raises(UserError):
            api.train(config, "run")
    else:
        api.train(config, "run")
    assert not (standing_in / "state").exists()


def test_where_data_was_downloaded_to_is_noted_although_it_is_there_by_then(standing_in, small_config):
    (standing_in / "data/MNIST/raw").mkdir(parents=True)
    config = small_config("data.name=mnist", f"data.root={standing_in / 'data'}", "data.download=true")
    remember(config)
    shutil.rmtree(standing_in / "data")
    check_settings(config, RunDirectory("run"), [])
