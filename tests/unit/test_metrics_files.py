"""Records in parts: object stores cannot append, and what every reader sees is the same lines in the same order."""

import shutil
from pathlib import Path

import pytest

from noprop_dist import api
from noprop_dist.errors import UserError
from noprop_dist.records import News, RoundDone
from noprop_dist.simulation.bucket import SimulatedBucket
from noprop_dist.stages import block
from noprop_dist.storage import metrics_files
from noprop_dist.storage.metrics_files import PART_BYTES
from noprop_dist.storage.object_files import ObjectFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store
from noprop_dist.training.run_log import RunLog


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(metrics_files, "PART_BYTES", 300)


class Bucket:
    """An object store, the requests that it got, and the stores of processes that use it."""

    def __init__(self):
        self.common, self.requests = SimulatedBucket(), []

    def store(self):
        files = self.common.for_process(lambda request, path: self.requests.append((request, path)))
        return Store("s3://bucket/run", ObjectFiles(files, "bucket/run"))

    def directory(self):
        """As a new process has it."""
        return RunDirectory(self.store())

    def copy_to(self, folder):
        store = self.store()
        for name in ("metrics.jsonl", *(f"metrics/{part}" for part in store.names("metrics"))):
            if store.exists(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(store.read(name))

    def copy_from(self, folder):
        for file in filter(Path.is_file, folder.rglob("*")):
            self.store().write(str(file.relative_to(folder)), file.read_bytes())


@pytest.fixture
def bucket():
    return Bucket()


def news(*numbers):
    return [News(text=f"line {number}") for number in numbers]


def told(directory):
    records = directory.metrics()
    assert records == directory.metrics_from()[0]
    return [record.text for record in records if isinstance(record, News)]


def lines(count):
    return [f"line {number}" for number in range(count)]


def test_a_flush_writes_its_own_part_and_no_more_than_that_is_written_again(bucket):
    log, sizes = RunLog(bucket.directory(), {}), []
    for number in range(40):
        bucket.requests.clear()
        log.add(News(text=f"line {number}"))
        log.flush()
        (put,) = [path for request, path in bucket.requests if request == "put"]
        sizes.append(len(bucket.common.object(put)))
    assert told(bucket.directory()) == lines(40)
    assert max(sizes) < 300 + 100
    assert 5 < len(bucket.store().names("metrics")) < 20, "few parts"
    assert PART_BYTES >= 2**15, "as shipped"


def test_processes_go_on_one_after_the_other_in_parts_of_their_own(bucket):
    for number in range(5):
        bucket.directory().append_metrics(news(number))
    assert bucket.store().names("metrics") == [f"00000{number}.jsonl" for number in range(1, 6)]
    assert told(bucket.directory()) == lines(5)


def test_an_old_listing_hides_no_part_from_readers_and_overwrites_none(bucket):
    now = [0.0]
    bucket.common._now = lambda: now[0]
    bucket.directory().append_metrics(news(0))
    now[0], bucket.common.stale_seconds = 100.0, 50.0
    bucket.directory().append_metrics(news(1))
    bucket.directory().append_metrics(news(2))
    assert len(bucket.store().names("metrics")) == 1, "the listing is old"
    assert told(bucket.directory()) == lines(3)


def test_a_run_from_before_there_were_parts_goes_on(bucket, tmp_path):
    RunDirectory(str(tmp_path)).append_metrics(news(0, 1))
    bucket.copy_from(tmp_path)
    directory = bucket.directory()
    directory.append_metrics(news(2))
    assert told(directory) == lines(3)
    assert bucket.store().read("metrics.jsonl") == (tmp_path / "metrics.jsonl").read_bytes()


def test_a_run_is_copied_to_a_disk_and_back_and_goes_on_at_each_place(bucket, tmp_path):
    bucket.directory().append_metrics(news(0))
    bucket.directory().append_metrics(news(1))
    bucket.copy_to(tmp_path)
    on_disk = RunDirectory(str(tmp_path))
    for number in (2, 3):
        on_disk.append_metrics(news(number))
    assert told(on_disk) == told(RunDirectory(str(tmp_path))) == lines(4)
    back = Bucket()
    back.copy_from(tmp_path)
    back.directory().append_metrics(news(4))
    assert told(back.directory()) == lines(5)


def test_what_was_read_before_is_not_read_again(bucket):
    directory, reader = bucket.directory(), bucket.directory()
    texts, place = [], (0, 0)
    for number in range(30):
        directory.append_metrics(news(number))
        if number % 3 == 0:
            found, place = reader.metrics_from(place)
            texts += [record.text for record in found]
    bucket.requests.clear()
    found, place = reader.metrics_from(place)
    assert [*texts, *(record.text for record in found)] == lines(30)
    assert len([request for request, _ in bucket.requests if request == "get"]) <= 2
    assert reader.metrics_from(place)[0] == []
    assert reader.metrics_end() == place


def test_rounds_that_are_done_again_are_dropped_from_the_parts_that_have_them(bucket):
    for step in range(5, 45, 5):
        done = RoundDone(
            stage=block(1), first_step=step - 5, step=step, steps=5, loss=1.0, error=0.5, gradient_norm=1.0, seconds=1.0
        )
        bucket.directory().append_metrics([done, *news(step)])
    store = bucket.store()
    store.write("metrics/000002.jsonl", store.read("metrics/000002.jsonl").replace(b'"kind": "news"', b'"kind": news'))
    bucket.requests.clear()
    left, warnings = bucket.directory().forget_rounds_after({block(1): 20})
    assert [record.step for record in left if isinstance(record, RoundDone)] == [5, 10, 15, 20]
    assert len([record for record in left if isinstance(record, News)]) == 7
    assert (
        "1 line(s) of metrics.jsonl are damaged or there twice; they are set aside in metrics.bad.jsonl" in warnings[0]
    )
    assert store.read("metrics.bad.jsonl").count(b"\n") == 1
    written = {path.rpartition("/")[2] for request, path in bucket.requests if request == "put"}
    assert written == {"metrics.bad.jsonl", *(f"00000{part}.jsonl" for part in (2, 5, 6, 7, 8))}
    assert bucket.directory().metrics() == left
    assert bucket.directory().forget_rounds_after({block(1): 20}) == (left, [])


def test_every_command_reads_a_run_whose_records_are_in_parts(copied_run, tmp_path, undrawn):
    run = copied_run()
    told = api.inspect(str(run))
    whole = Path(str(run), "metrics.jsonl")
    first, *others = whole.read_bytes().splitlines(keepends=True)
    parted = shutil.copytree(str(run), tmp_path / "parted")
    (parted / "metrics").mkdir()
    (parted / "metrics.jsonl").write_bytes(first)
    for number in range(3):
        part = others[number * len(others) // 3 : (number + 1) * len(others) // 3]
        (parted / f"metrics/{number + 1:06d}.jsonl").write_bytes(b"".join(part))
    assert RunDirectory(str(parted)).metrics() == run.metrics()
    assert api.inspect(str(parted)) == told
    api.report(str(parted))
    before = len(run.metrics())
    api.resume(str(parted), settings=["training.max_steps=16"])
    assert len(RunDirectory(str(parted)).metrics()) > before
    assert (parted / "metrics.jsonl").read_bytes() == first
    assert len(list((parted / "metrics").iterdir())) == 3, "on a disk the last one is appended to"


def test_a_folder_with_parts_and_no_run_is_refused(small_config, tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/000001.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="holds metrics but no config.yaml, so a part of a run"):
        api.train(small_config("engine.kind=sequential"), str(tmp_path))
