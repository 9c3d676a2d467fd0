"""A benchmark in namespaces of its own: what it says is heard, and how it fails is told."""

import operator

import pytest

from noprop_dist.bench import namespaces
from noprop_dist.bench.namespaces import in_namespaces, may_unshare
from noprop_dist.errors import TrainingError, UserError


@pytest.mark.skipif(not may_unshare(), reason="this user may make no process and network namespaces")
def test_what_is_said_there_is_heard_here_and_a_failure_there_is_told_here():
    heard = []
    assert in_namespaces(print, heard.append, "measured") is None  # it is called with what says lines as well
    assert heard[0].startswith("measured ")
    with pytest.raises(TrainingError, match=r"the benchmark ended with code 1: .*TypeError: unsupported operand"):
        in_namespaces(operator.truediv, heard.append, 1)


def test_where_no_namespaces_can_be_made_that_is_told(monkeypatch):
    monkeypatch.setattr(namespaces, "_unshare", lambda: ["no-such-command"])
    with pytest.raises(UserError, match="of util-linux does not work here"):
        in_namespaces(print, print)
