"""A driver shows what its coordinator answers, gives it up after a silence, and bounds its end after a stop."""

import pytest

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.following import AFTER_GRACE_SECONDS, Following, SilentError
from noprop_dist.errors import TrainingError

SETTINGS = EngineSettings(grace_seconds=5, coordinator_timeout_seconds=60)


@pytest.fixture
def said():
    return []


@pytest.fixture
def following(said):
    return Following(SETTINGS, said.append, said.append, now=0.0)


def test_what_the_coordinator_waits_for_is_said_once(following, said):
    for now, answer in enumerate([None, "for the lock", "for the lock", "for the disk"]):
        following.answered(answer, float(now))
    assert said == ["for the lock", "for the disk"]


def test_a_coordinator_that_is_silent_for_too_long_is_given_up(following):
    following.answered(None, 10.0)
    following.not_answered(70.0)
    with pytest.raises(SilentError, match="60 s"):
        following.not_answered(70.1)


def test_a_stop_is_told_once_and_has_the_time_of_grace_and_a_little_more(following):
    assert not following.tells_to_stop(False, 0.0)
    assert following.tells_to_stop(True, 1.0)
    assert not following.tells_to_stop(True, 6.0 + AFTER_GRACE_SECONDS)
    with pytest.raises(TrainingError, match="engine.grace_seconds"):
        following.tells_to_stop(True, 6.1 + AFTER_GRACE_SECONDS)
