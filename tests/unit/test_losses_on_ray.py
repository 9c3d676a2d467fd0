"""How an actor was lost, out of what Ray raises."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

from noprop_dist.engines.ray import actors, cluster
from noprop_dist.engines.ray.actors import _not_on
from noprop_dist.engines.ray.cluster import cause_of_loss, reason_of_loss

NODE_DIED = "The actor is dead because its node has died. Node Id: 1f2e."
KILLED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"


@pytest.mark.parametrize(
    ("error", "reason", "cause"),
    [
        (RayActorError(error_msg=KILLED), "died", "its worker process has died"),
        (RayActorError(error_msg=NODE_DIED), "node_died", "its node has died"),
        (RayActorError(error_msg=KILLED, preempted=True), "node_died", "its worker process has died"),
        (ActorUnavailableError("RpcError: Socket closed", b"1f2e" * 4), "node_died", "its node does not answer"),
        (OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on …"), "out_of_memory",
         "Ray's memory monitor killed it, because its machine ran out of memory"),
    ],
)  # fmt: skip
def test_ray_tells_whether_a_process_its_machine_or_want_of_memory_was_the_cause(error, reason, cause):
    assert reason_of_loss(error) == reason
    assert cause_of_loss(error).startswith(cause)


def test_want_of_memory_is_told_with_what_to_change():
    told = cause_of_loss(OutOfMemoryError("low on memory"))
    assert all(setting in told for setting in ("training.batch_size", "engine.blocks_per_worker", "engine.workers"))


def test_an_actor_may_be_kept_off_one_node_if_there_are_others(monkeypatch):
    nodes = [{"NodeID": node, "Alive": True, "Resources": {"CPU": cpus}} for node, cpus in [("1f2e", 2), ("ab12", 0)]]
    monkeypatch.setattr(actors.ray, "nodes", lambda: nodes)
    assert _not_on("1f2e") == {}, "the head without cores is none"
    nodes.append({"NodeID": "77aa", "Alive": True, "Resources": {"CPU": 1}})
    assert _not_on("1f2e") == {"label_selector": {"ray.io/node-id": "!in(1f2e)"}}
    assert _not_on("") == {}


@pytest.mark.parametrize(("own_node", "answers"), [("1f2e", True), ("77aa", False), ("gone", False)])
def test_a_cluster_that_this_process_is_no_part_of_any_more_is_gone_for_it(monkeypatch, own_node, answers):
    """What a process starts whose node has left is ended at once: its driver would start coordinators for ever."""
    nodes = [{"NodeID": "1f2e", "Alive": True}, {"NodeID": "77aa", "Alive": False}]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: own_node))
    assert cluster.cluster_answers(5.0) is answers
