"""The coordinator's silence is told early, and bounded."""

from noprop_dist.engines.core.heartbeat import Heartbeat


def test_a_silence_is_told_within_ten_seconds_and_again_every_half_minute():
    heartbeat = Heartbeat(start_seconds=120, silence_seconds=60, now=0.0)
    heartbeat.answered(100.0)
    told = [second for second in range(100, 161) if heartbeat.word(float(second)) is not None]
    assert told == [108, 138]


def test_a_silence_is_over_after_the_time_that_is_set():
    heartbeat = Heartbeat(start_seconds=120, silence_seconds=60, now=0.0)
    assert not heartbeat.is_over(119.0), "its process may still be starting"
    heartbeat.answered(119.0)
    assert not heartbeat.is_over(179.0)
    assert heartbeat.is_over(180.0)
    assert "60 s" in heartbeat.cause


def test_an_answer_ends_a_silence():
    heartbeat = Heartbeat(start_seconds=120, silence_seconds=60, now=0.0)
    assert "has been starting for 9 s" in heartbeat.word(9.0)
    heartbeat.answered(10.0)
    assert heartbeat.word(17.0) is None
    assert "has not answered for 8 s" in heartbeat.word(18.0)


def test_a_coordinator_may_start_though_workers_are_wanted_at_once():
    assert not Heartbeat(start_seconds=0.1, silence_seconds=60, now=0.0).is_over(59.0)
