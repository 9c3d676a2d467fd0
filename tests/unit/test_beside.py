"""What a network prints, logs or warns reaches the run's log with the name of its block, and not too much of it."""

import sys
import threading
from collections import Counter

import pytest
from torch import nn

from noprop_dist import api
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.events import Heard
from noprop_dist.engines.core.placement import Resources, place_run
from noprop_dist.engines.core.run import Run, StartingPoint
from noprop_dist.engines.ray.workers import BlockWorker
from noprop_dist.errors import TrainingError
from noprop_dist.records import News, StageFailed
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.beside import LINES_AT_ONCE, LONGEST_LINE, Beside, at_work, leave_file
from noprop_dist.training.messages import Accompanied, RoundReport
from noprop_dist.training.setup import prepare

TALKING = f"blocks.networks.2={{kind: custom, path: '{__name__}:Talking'}}"


class Talking(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim, fails=False):
        super().__init__()
        self.layer, self.fails = nn.Linear(embedding_dim, classes), fails
        print("I am built")

    def forward(self, x, z):
        if self.training:
            print("one\x1b[31m", "\ntwo", flush=True)
            sys.stderr.write("never en")
            sys.stderr.write("ded\n")
        if self.training and self.fails:
            raise RuntimeError("no more")
        return self.layer(z)


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def test_lines_count_once_they_are_ended_and_obey_no_terminal():
    beside = Beside("block 3")
    beside.hear("a\x1b[2J\n\n  \nhalf")
    assert beside.take().lines == (r"block 3: a\x1b[2J",)
    beside.hear(" and half\n" + "x" * 10**6 + "\n")
    half, long = beside.take().lines
    assert half == "block 3: half and half"
    assert long == f"block 3: {'x' * LONGEST_LINE} …"
    assert not beside.take()


def test_who_says_too_much_is_cut_and_it_is_told_how_much(clock):
    beside = Beside("block 3", clock)
    for number in range(1000):
        beside.hear(f"{number}\n")
    *kept, told = beside.take().lines
    assert kept == [f"block 3: {number}" for number in range(LINES_AT_ONCE)]
    assert told.startswith("block 3: says more than is kept: 20 lines at once, and one more in 10 s")
    beside.hear("too soon\n")
    assert not beside.take()
    clock.now = 10.5
    beside.hear("again\n" * 3)
    assert [line.removeprefix("block 3: ")[:16] for line in beside.take().lines] == [
        "(981 lines were ", "again", "says more than i",
    ]  # fmt: skip


def test_a_line_that_never_ends_takes_no_memory():
    beside = Beside("block 3")
    for _ in range(1000):
        beside.hear("x" * 1000)
    beside.hear("\n")
    assert len(beside.take().lines[0]) < 2 * LONGEST_LINE


def test_each_thread_tells_its_own_stage_and_the_streams_are_as_before(capsys):
    before, started = (sys.stdout, sys.stderr), threading.Barrier(2)
    heard = {}

    def work(number):
        beside = Beside(f"block {number}")
        with at_work(beside):
            started.wait()
            print("from", number)
            started.wait()
        heard[number] = beside.take().lines

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {number: (f"block {number}: from {number}",) for number in (1, 2)}
    assert (sys.stdout, sys.stderr) == before
    assert sorted(capsys.readouterr().out.split("\n")) == ["", "from 1", "from 2"], "it goes where it went before, too"


def test_a_thread_of_the_networks_own_is_heard_where_one_stage_is_alone_at_work():
    beside = Beside("block 1")
    with at_work(beside):
        thread = threading.Thread(target=lambda: (print("from within"), leave_file("a", b"b")))
        thread.start()
        thread.join()
    left = beside.take()
    assert (left.lines, left.files) == (("block 1: from within",), {"a": b"b"})
    leave_file("nobody", b"")


def test_a_worker_sends_what_a_network_says_along_with_its_answer(small_config):
    setup, data = prepare(small_config(TALKING))
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    held = worker.hold(block(2), None)
    assert isinstance(held, Accompanied)
    assert (held.answer, held.left.lines) == (None, ("block 2: I am built",))
    assert worker.hold(block(1), None) is None
    report = worker.train(RoundKey(block(2), 0, 1))
    assert isinstance(report.answer, RoundReport)
    assert report.left.lines == (r"block 2: one\x1b[31m ", "block 2: two", "block 2: never ended")
    assert isinstance(worker.train(RoundKey(block(1), 0, 1)), RoundReport)


def test_what_is_heard_on_the_way_becomes_news(small_setup):
    plan = small_setup[0].plan
    run = Run(plan, place_run(plan.config, Resources(2, 0)), StartingPoint({}), 0.0)
    commands = run.decide([Heard(("block 2: hello",))], 0.0)
    assert News(text="block 2: hello") in [each.record for each in commands if isinstance(each, c.Log)]
    assert "block 2: hello" in run.progress(0.0).news


def test_the_sequential_engine_writes_it_down_too_and_prints_it_once(small_run, capsys):
    run = small_run(TALKING, "evaluation.samples=0")
    news = Counter(record.text for record in run.metrics() if isinstance(record, News))
    assert news["block 2: never ended"] >= 4
    assert news["block 2: (12 lines were cut)"] == 0
    assert capsys.readouterr().out.count("two") == 12


def test_the_last_words_of_a_network_that_fails_stand_before_its_failure(small_config, tmp_path):
    failing = TALKING.replace("'}", "', arguments: {fails: true}}")
    with pytest.raises(TrainingError, match="no more"):
        api.train(small_config("engine.kind=sequential", failing), str(tmp_path / "run"))
    kinds = [type(r) for r in RunDirectory(str(tmp_path / "run")).metrics() if isinstance(r, News | StageFailed)]
    assert kinds[-1] is StageFailed
    assert kinds.count(News) == 3
