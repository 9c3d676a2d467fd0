"""Signals that ask a run to end: the first one saves it, Ctrl-C once more ends it at once."""

import signal
import threading

import pytest

from noprop_dist.cli.stop_signals import stop_signals

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
