"""Storage that does not answer, refuses or is full: every command says so in one sentence, and nothing is made up."""

import errno
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from noprop_dist.api import plan, train
from noprop_dist.cli.app import main
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray import driver
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.files import local_path
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.lock import only_writer
from noprop_dist.storage.object_files import S3_ATTEMPTS, open_uri
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import StorageError, Store
from noprop_dist.storage.system import ThisSystem


class Denying(BaseHTTPRequestHandler):
    """An S3 that lets nobody read or write."""

    status = 403

    def do_HEAD(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD  # noqa: N815 (the base class's names)

    def log_message(self, *_):
        pass


class ReadOnly(BaseHTTPRequestHandler):
    """An S3 that shows the files of a folder and lets nobody write; `root` is of the folder."""

    root: Path

    def do_HEAD(self):
        key = self.path.partition("?")[0].removeprefix("/bucket").lstrip("/")
        file = self.root / key
        self.answer(200 if file.is_file() or not key else 404, file.read_bytes() if file.is_file() else b"")

    def do_GET(self):
        if "list-type=2" not in self.path:
            self.do_HEAD()
            return
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        folder, one_level = asked.get("prefix", "").rstrip("/"), "delimiter" in asked
        found = (self.root / folder).glob("*" if one_level else "**/*")
        self.answer(200, f"<ListBucketResult>{''.join(map(self.listed, sorted(found)))}</ListBucketResult>".encode())

    def listed(self, file):
        key = file.relative_to(self.root).as_posix()
        if file.is_dir():
            return f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>"
        return f"<Contents><Key>{key}</Key><Size>{file.stat().st_size}</Size></Contents>"

    def do_PUT(self):
        self.close_connection = True  # what was to be written is not even read
        self.answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")

    do_POST = do_DELETE = do_PUT  # noqa: N815

    def answer(self, status, content=b""):
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        content = content[int(first) : int(last or len(content)) + 1] if status == 200 else content
        self.send_response(206 if status == 200 and "Range" in self.headers else status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 26 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    log_message = Denying.log_message


class Missing(Denying):
    """An S3 that has no such bucket."""

    status = 404


@pytest.fixture(params=[Denying])
def s3(request, monkeypatch):
    """The URI of a run directory there."""
    for name, value in {"ACCESS_KEY_ID": "KEY", "SECRET_ACCESS_KEY": "SECRET", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"s3://bucket/run?scheme=http&endpoint_override=127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def refusal(capsys):
    """What a command says that ends with exit code 2."""

    def of(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert (end.value.code, said.partition(": ")[0]) == (2, "noprop-dist"), said
        return said

    return of


@pytest.mark.parametrize(
    "command",
    [
        *("inspect HERE", "evaluate HERE", "predict HERE a.png", "report HERE", "resume HERE"),
        *("train --engine sequential --run-dir HERE", "plan --run-dir HERE", "merge HERE runs/a", "merge out HERE"),
    ],
)
def test_every_command_tells_in_one_sentence_that_a_store_denies_it(refusal, s3, command):
    said = refusal(*(s3 if word == "HERE" else word for word in command.split()))
    assert "s3://bucket/run/" in said
    assert "ACCESS_DENIED" in said


@pytest.mark.parametrize("s3", [ReadOnly], indirect=True)
@pytest.mark.slow
def test_a_store_that_denies_writing_alone_is_told_before_anything_is_trained(
    refusal, small_run, s3, tmp_path, capsys, monkeypatch
):
    """`plan`, `inspect` and `evaluate` need not write; a run that is not done cannot go on."""
    ReadOnly.root = tmp_path
    monkeypatch.setattr(driver, "train_on_ray", lambda *_, **__: pytest.fail("Ray was started"))
    small_run("checkpoint.every_steps=4")
    for file in (tmp_path / "run/run.lock", *(tmp_path / "run/checkpoints/step-00000012").iterdir()):
        file.unlink()
    new, blocks = s3.replace("/run?", "/new?"), (1, 2, 3)
    parts = [small_run(f"blocks.only=[{t}]", name=f"part{t}").root for t in blocks]
    for where, command in (
        ("new", ["train", "--run-dir", new, "--set", "blocks.count=2"]),  # on Ray, which is not started
        ("new", ["train", "--run-dir", new, "--set", "blocks.count=2", "--engine", "sequential"]),
        ("new", ["merge", new, *parts]),
        ("run", ["resume", s3]),
        ("run", ["resume", s3, "--set", "engine.kind=ray"]),
    ):
        said = refusal(*command)
        assert f": the run directory cannot be written: s3://bucket/{where}/run.lock: " in said
        assert "ACCESS_DENIED" in said
    assert "s3://bucket/run/plots/" in refusal("report", s3)
    for command in (f"inspect {s3} --json", f"evaluate {s3} --json", f"plan --engine sequential --run-dir {new}"):
        with pytest.raises(SystemExit) as end:
            main(command.split())
        assert end.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("s3", [Missing], indirect=True)
def test_a_bucket_that_is_not_there_is_told_before_anything_is_trained(refusal, s3):
    said = refusal("train", "--engine", "sequential", "--run-dir", s3)
    assert "the run directory cannot be written: s3://bucket/run/run.lock: " in said


def test_a_server_that_says_nothing_is_given_up_after_seconds():
    options = open_uri("s3://bucket/run?scheme=http&endpoint_override=127.0.0.1:9")[0].__reduce__()[1][0]
    assert S3_ATTEMPTS == 3, "ten, as pyarrow has it, are 100 s"
    assert options["endpoint_override"] == "127.0.0.1:9"
    assert options["scheme"] == "http"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_snapshot_that_may_not_be_read_is_no_damage_and_nothing_older_takes_its_place(small_run, monkeypatch, number):
    directory, read = small_run("checkpoint.every_steps=4"), LocalFiles.read

    def refusing(files, name, offset=0):
        if "step-00000012" in name:
            raise OSError(number, os.strerror(number))
        return read(files, name, offset)

    monkeypatch.setattr(LocalFiles, "read", refusing)
    if number == errno.EIO:
        (_, snapshot), warnings = directory.checkpoints.newest("block-01", [8, 12])
        assert (snapshot.step, len(warnings)) == (8, 1)
        return
    with pytest.raises(StorageError, match=r"step-00000012/block-01.json: Permission denied$"):
        directory.checkpoints.newest("block-01", [8, 12])


def test_a_sequential_run_whose_disk_is_full_says_how_to_go_on(small_config, monkeypatch, tmp_path):
    write = LocalFiles.write

    def full(files, name, content):
        if "checkpoints" in name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(files, name, content)

    monkeypatch.setattr(LocalFiles, "write", full)
    told = r"step-00000012/block-01.safetensors: No space left on device; `noprop-dist resume .*run` continues the run"
    with pytest.raises(TrainingError, match=told):
        train(small_config("engine.kind=sequential"), str(tmp_path / "run"))


def test_a_store_that_stops_answering_leaves_its_lease_to_end_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "is_local", False)
    monkeypatch.setattr(LocalFiles, "delete", lambda *_: (_ for _ in ()).throw(OSError(errno.EHOSTDOWN, "down")))
    with only_writer(Store(str(tmp_path))):
        pass


@pytest.mark.parametrize("setting", ["data.name=npz", "data.name=image-folder", "data.name=packed"])
def test_data_is_a_path_and_no_uri(setting, tmp_path):
    config = load_config("digits", None, [setting, "data.root=s3://KEY:SECRET@bucket/data"])
    with pytest.raises(UserError, match="^s3://bucket/data: is a URI") as refused:
        plan(config)
    assert "SECRET" not in str(refused.value)
    with pytest.raises(UserError, match="only run directories may be URIs"):
        local_path("gs://bucket/out")


def test_a_name_of_300_characters_is_told_once(refusal, tmp_path):
    said = refusal("inspect", tmp_path / ("x" * 300))
    assert said.count("x" * 300) == 1
    assert "File name too long" in said
    with (
        pytest.raises(UserError, match="File name too long") as refused,
        RunDirectory(str(tmp_path / "runs" / ("x" * 300))).only_writer(),
    ):
        pass
    assert str(refused.value).count("x" * 300) == 1


def test_a_full_disk_keeps_nothing_half_written(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = Store(str(tmp_path))
    store.write("file", b"before")
    monkeypatch.setattr(ThisSystem, "replace", full)
    with pytest.raises(StorageError, match="file: No space left on device"):
        store.write("file", b"after")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert store.read("file") == b"before"


def test_a_full_disk_is_what_pack_tells_and_not_that_data_cannot_be_read(refusal, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("noprop_dist.data.packed.np.lib.format.write_array_header_1_0", full)
    assert refusal("pack", tmp_path / "out").endswith("/out: cannot be written: No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_is_no_file_and_has_a_name(refusal, tmp_path):
    (tmp_path / "file").write_text("mine")
    said = refusal("train", "--engine", "sequential", "--run-dir", tmp_path / "file")
    assert "is a file; a run directory is a new folder" in said
    for command in (["train", "--run-dir", ""], ["inspect", ""], ["merge", "", "a"]):
        assert "the path is empty" in refusal(*command)
