"""Signals that ask a run to end: the first one saves it, Ctrl-C once more ends it at once."""

import signal
import threading

import pytest
from run_facts import fingerprints

from noprop_dist import api
from noprop_dist.api.stop_signals import stop_signals

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ASKING)
def test_each_signal_asks_the_run_to_end_and_tells_so_once(number):
    said, before = [], [signal.getsignal(each) for each in ASKING]
    with stop_signals(said.append) as request:
        assert not request()
        signal.raise_signal(number)
        assert request()
        signal.raise_signal(signal.SIGTERM)
        assert request.signal == number
    assert said == [f"{number.name}: saving snapshots, then ending; Ctrl-C once more ends at once"]
    assert [signal.getsignal(each) for each in ASKING] == before


def test_ctrl_c_once_more_ends_at_once():
    with stop_signals(lambda _: None):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_no_signal_is_taken():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def run():
        with stop_signals(lambda _: None) as request:
            inside.append((signal.getsignal(signal.SIGTERM), request()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [(before, False)]


def test_a_signal_that_nohup_has_switched_off_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(lambda _: None) as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_in_python_snapshots_every_stage_and_is_raised_then(small_config, small_run, tmp_path):
    def interrupt(progress):
        if progress.stages[1].step == 6:
            signal.raise_signal(signal.SIGINT)

    said, folder, config = [], tmp_path / "run", small_config("engine.kind=sequential", "engine.round_steps=2")
    with pytest.raises(KeyboardInterrupt, match=r"stopped and saved; resume\('.*run'\) continues the run"):
        api.train(config, folder, watcher=api.Watcher(interrupt, said.append))
    assert said[-2] == "SIGINT: saving snapshots, then ending; Ctrl-C once more ends at once"
    assert said[-1] == f"stopped and saved; resume('{folder}') continues the run"
    newest = {stage.name: entry and entry.step for stage, entry in api.inspect(folder).newest.items()}
    assert newest == {"block 1": 12, "block 2": 6, "block 3": None, "classifier": None}
    assert api.Result.from_path(folder).stopped
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert fingerprints(api.resume(folder).path) == fingerprints(small_run("engine.round_steps=2", name="whole"))


def test_ctrl_c_once_more_in_python_ends_at_once(small_config, tmp_path):
    def interrupt(_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        api.train(small_config("engine.kind=sequential"), tmp_path / "run", watcher=api.Watcher(interrupt))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_own_is_left_to_them(small_config, tmp_path):
    caught = []
    before = signal.signal(signal.SIGINT, lambda *_: caught.append("mine"))
    try:
        watcher = api.Watcher(lambda progress: None if caught else signal.raise_signal(signal.SIGINT))
        assert not api.train(small_config("engine.kind=sequential"), tmp_path / "run", watcher=watcher).stopped
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == ["mine"]
