"""Whether a Ray cluster grows by itself: whether an autoscaler adds machines for actors that have no room.

Ray has no public function that tells the machines an autoscaler may add. What its status tells was tried with Ray 2.60
and both autoscalers; it is the same in Ray's own `ray status`.
"""

import json
import time
from functools import lru_cache
from typing import Any

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

ANSWER_SECONDS = 5.0
PROBE_SECONDS = 20.0
"""An autoscaler looks every five seconds at what is asked for."""
STATUS_KEY = b"__autoscaling_status"
MIRRORED_NODE = "node_"
"""The name that Ray's older autoscaler gives to machines of a cluster that it cannot change begins with this."""


def grows() -> bool:
    """Return True if the connected cluster has an autoscaler."""
    return _grows(ray.get_runtime_context().gcs_address)


def gpus_come() -> bool:
    """Return True if that autoscaler can add GPUs: as it says, or as it does when it is asked for one."""
    return _gpus_come(ray.get_runtime_context().gcs_address)


@lru_cache(maxsize=8)
def _grows(_address: str) -> bool:
    status = _status()
    if status.autoscaling_state.autoscaler_state_version > 0:
        return True
    return any(not kind.startswith(MIRRORED_NODE) for kind in _older_report().get("active_nodes") or ())


@lru_cache(maxsize=8)
def _gpus_come(_address: str) -> bool:
    told = ray._private.state.state.get_max_resources_from_cluster_config()
    if told is not None:
        return bool(told.get("GPU"))
    if ray.cluster_resources().get("GPU"):
        return True
    asking = ray.remote(num_cpus=0, num_gpus=1)(_Nothing).remote()
    try:
        return _answer_to_a_request_for_gpus()
    finally:
        ray.kill(asking)


class _Nothing:
    """What asks for a GPU and does nothing with it."""


def _answer_to_a_request_for_gpus() -> bool:
    until = time.monotonic() + PROBE_SECONDS
    while time.monotonic() < until:
        state = _status().autoscaling_state
        if any("GPU" in each.resources_bundle for each in state.infeasible_resource_requests):
            return False
        coming = state.pending_instance_requests or state.pending_instances or _older_report().get("pending_launches")
        if coming or ray.cluster_resources().get("GPU"):
            return True
        time.sleep(0.5)
    return False


def _status() -> Any:
    reply = GetClusterStatusReply()
    reply.ParseFromString(ray._private.worker.global_worker.gcs_client.get_cluster_status(timeout_s=ANSWER_SECONDS))
    return reply


def _older_report() -> dict[str, Any]:
    """What Ray's older autoscaler last told of itself."""
    client = ray._private.worker.global_worker.gcs_client
    told = client.internal_kv_get(STATUS_KEY, None, timeout=ANSWER_SECONDS)
    report = json.loads(told).get("autoscaler_report") if told else None
    return report if isinstance(report, dict) else {}
