"""What a run asks of S3, counted by a server that speaks it (moto)."""

import logging
import threading
import uuid
from collections import Counter
from urllib.request import Request, urlopen

import pytest

from noprop_dist import api
from noprop_dist.storage import lock, metrics_files
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store

moto = pytest.importorskip("moto.server", reason='needs an S3 server: pip install "moto[s3]" flask flask-cors')

CHECK = Counter(HEAD=1, GET=1)
"""Before anything is changed, the lock is read: pyarrow asks for its size, then for its content."""
WRITE = Counter(PUT=1)
DELETE = Counter(HEAD=1, DELETE=1, PUT=1)
"""pyarrow looks whether it is there, and keeps the folder, which may be empty now."""
SNAPSHOT = CHECK + WRITE + CHECK + WRITE + WRITE + CHECK + WRITE
"""The records before it; both files at the same time; its entry."""
SUPERSEDED = CHECK + DELETE + CHECK + DELETE + DELETE
"""The entry of an earlier one, then both its files."""
DELETE_FOLDER = Counter(HEAD=1, GET=2, DELETE=1, PUT=1)
CHECKPOINT = CHECK + WRITE + CHECK + DELETE + CHECK + DELETE_FOLDER
"""Its manifest; that of an earlier one, and what is left of its folder."""


class CountedS3:
    """moto's S3 in this process; `requests` are (method, path, bytes that were sent)."""

    def __init__(self):
        self.application = moto.DomainDispatcherApplication(moto.create_backend_app)
        self.requests = []

    def __call__(self, environment, start_response):
        sent = environment.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environment.get("CONTENT_LENGTH") or 0
        self.requests.append((environment["REQUEST_METHOD"], environment["PATH_INFO"], int(sent)))
        return self.application(environment, start_response)

    def counted(self):
        """Requests by method since the last call."""
        found, self.requests[:] = list(self.requests), []
        return Counter(method for method, _, _ in found)


@pytest.fixture
def s3(monkeypatch):
    from werkzeug.serving import make_server

    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 1000.0)  # how often it is renewed depends on how long a run takes
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counted = CountedS3()
    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urlopen(Request(f"http://127.0.0.1:{server.server_port}/bucket", method="PUT")).read()
    counted.uri = f"s3://bucket/runs/one?scheme=http&endpoint_override=127.0.0.1:{server.server_port}"
    counted.requests.clear()
    yield counted
    server.shutdown()


def test_a_small_file_is_one_request_and_makes_no_folder(s3):
    store = Store(s3.uri)
    store.write("first/file", b"1")
    s3.counted()
    store.write("some/folders/file", b"1")
    store.write("some/folders/file", b"2")
    assert s3.counted() == WRITE + WRITE
    assert (store.names("some"), store.names("some/folders"), store.read("some/folders/file")) == (
        ["folders"], ["file"], b"2",
    )  # fmt: skip
    s3.counted()
    store.delete("some/folders/file")
    assert s3.counted() == DELETE
    assert store.names("some/folders") == []
    store.delete("some/folders/file")


def _requests_of(s3, config, steps):
    uri = s3.uri.replace("one", uuid.uuid4().hex)
    s3.counted()
    api.train(config(f"training.max_steps={steps}"), uri)
    bytes_of_records = sum(sent for method, path, sent in s3.requests if method == "PUT" and "/metrics" in path)
    return s3.counted(), bytes_of_records, uri


@pytest.fixture
def digits(small_config):
    cadence = ("checkpoint.every_steps=4", "engine.round_steps=4", "evaluation.samples=0", "checkpoint.num_to_keep=1")
    return lambda *settings: small_config("engine.kind=sequential", *cadence, *settings)


@pytest.mark.slow
def test_a_checkpoint_takes_as_many_requests_as_the_documentation_says(s3, digits):
    """Of two runs, one is a checkpoint longer: four stages, each writes a snapshot and deletes one."""
    (shorter, _, _), (longer, _, uri) = (_requests_of(s3, digits, steps) for steps in (20, 24))
    difference = Counter(longer)
    difference.subtract(shorter)
    of_stages = Counter({method: 4 * number for method, number in (SNAPSHOT + SUPERSEDED).items()})
    assert difference == of_stages + CHECKPOINT
    assert (SNAPSHOT.total(), SUPERSEDED.total(), CHECKPOINT.total()) == (10, 13, 15), "the documentation has these"
    assert api.inspect(uri).warnings == ()


@pytest.mark.slow
def test_what_records_take_grows_with_a_run_and_not_with_its_square(s3, digits, monkeypatch):
    monkeypatch.setattr(metrics_files, "PART_BYTES", 1000)
    found = {steps: _requests_of(s3, digits, steps) for steps in (24, 48, 96)}
    sent = {steps: sent for steps, (_, sent, _) in found.items()}
    total = {steps: requests.total() for steps, (requests, _, _) in found.items()}
    for measured in (sent, total):
        assert measured[96] - measured[48] == pytest.approx(2 * (measured[48] - measured[24]), rel=0.1)
    uri = found[96][2]
    assert sum(record.KIND == "round" for record in RunDirectory(uri).metrics()) == 4 * 96 / 4
