"""Connects to Ray: starts one on this machine, or joins a running cluster by its address."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.job_config import JobConfig
from ray.util.client import ray as client
from ray.util.placement_group import get_current_placement_group

from noprop_dist.engines.core.placement import Resources
from noprop_dist.engines.ray import ahead, forked_worker, growth
from noprop_dist.engines.ray.fork_server import fork_server
from noprop_dist.errors import UserError, why
from noprop_dist.files import SENT_FOLDER
from noprop_dist.records import LossReason

if TYPE_CHECKING:
    from noprop_dist.engines.core.events import ClusterSeen

CONNECT_TIMEOUT_SECONDS = 3.0
SOCKET_BYTES = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Of the folder in which Ray makes its sockets: their paths may have 107 bytes."""
MARKET_TYPE_LABEL = "ray.io/market-type"
HTTP2_SETTINGS_TYPE = b"\x04"


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Ray for the length of a `with`: the one this process is already connected to, or a new connection.

    Args:
        address: of a running cluster; without it $RAY_ADDRESS, and without that a Ray of our own.

    Raises:
        UserError: nobody answers at the address, this process is in another cluster, or Ray cannot be started.
        SystemExit: SIGTERM came while Ray was being started, 143.
    """
    ahead.wait_until_started()
    _take_signals_back()
    if ray.is_initialized() and _is_connected_to(address):
        yield
        return
    named = f"engine.address={address}" if address else f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}"
    address = _resolved(address)
    if address != "local":
        _check_somebody_listens(address, named)
    if ray.is_initialized():
        raise UserError(f"{named}: this process is connected to another Ray cluster; ray.shutdown() leaves that")
    with own_ray() if address == "local" else _connected(f"{named}: no Ray cluster is there", address=address):
        yield


@contextmanager
def own_ray() -> Iterator[None]:
    """A new Ray on this machine for the length of a `with`.

    Raises:
        UserError: it cannot be started.
        SystemExit: SIGTERM came meanwhile, 143.
    """
    own = {"address": "local", "include_dashboard": False, **_fewer_cores(), **_own_folder()}
    with ExitStack() as stack:
        stack.enter_context(fork_server())
        with _for_a_run_alone():
            stack.enter_context(_connected("Ray could not be started on this machine", **own))
        yield


@contextmanager
def _for_a_run_alone() -> Iterator[None]:
    """Let `ray.init` start no monitor of an autoscaler and of logs, take any port for its agent, and fork workers.

    `ray.init` has no options for these; `ray start` has some. On the agent's usual port a second Ray of a machine waits
    3.5 s for the first to go.
    """
    whole = ray._private.parameter.RayParams
    wanted = {
        **{"no_monitor": True, "include_log_monitor": False, "dashboard_agent_listen_port": 0},
        **({"worker_path": forked_worker.__file__} if forked_worker.ADDRESS in os.environ else {}),
    }
    known = {name: value for name, value in wanted.items() if name in signature(whole).parameters}
    ray._private.parameter.RayParams = partial(whole, **known)
    try:
        yield
    finally:
        ray._private.parameter.RayParams = whole


@contextmanager
def _connected(what_if_not: str, **options: Any) -> Iterator[None]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        with _own_signal_handlers():
            job_config = _WorkingDirectoryLast(_py_driver_sys_path=_sent_folders())
            ray.init(job_config=job_config, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray has no class of its own for it; a slow start is a plain Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what_if_not}: {reason}") from error
    try:
        with _own_output():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _own_output() -> Iterator[None]:
    """Keep Ray's messages of lost processes off standard output, which has results: the run tells of losses itself."""
    printing = ray._private.worker.print_to_stdstream
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        ray._private.worker.print_to_stdstream = printing


class _WorkingDirectoryLast(JobConfig):  # type: ignore[misc]
    """Without it Ray puts the driver's working directory first on `sys.path` of every worker.

    There its files would take the place of any module, such as numpy. `models.custom` searches it last.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True  # the case in which Ray adds nothing


def _sent_folders() -> list[str]:
    """The working directory, for networks of the user; no other import finds anything in it."""
    with suppress(FileNotFoundError):  # it was deleted
        return [SENT_FOLDER + os.getcwd()]  # noqa: PTH109
    return []


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep our signal handlers: `ray.init` puts one in their place that ends the process with a code of its own."""
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except SystemExit as end:
        raise SystemExit(128 + end.code if end.code == signal.SIGTERM else end.code) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in ours.items():
                if callable(handler) or handler == signal.SIG_IGN:
                    signal.signal(number, handler)


def _take_signals_back() -> None:
    """Ray that was started in another thread has handlers below Python's, which end the process after three seconds."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
    signal.alarm(0)


def is_remote(address: str | None) -> bool:
    """Return True if a session at this address joins a cluster that is already running."""
    return _resolved(address) != "local"


def _is_connected_to(address: str | None) -> bool:
    return address in (None, "", "auto") or address == ray.get_runtime_context().gcs_address


def is_connected() -> bool:
    """Return True if this process has a Ray already: a notebook's, or the one that runs it as a trial of Ray Tune."""
    return bool(ray.is_initialized()) and not ahead.is_under_way()


def cluster_resources(device: str = "cpu") -> Resources:
    """What the connected cluster has, without nodes that are about to leave it, and whether it grows.

    In a placement group, as a trial of Ray Tune is, it is what that reserves.

    Args:
        device: as `engine.device`. Unless it is "cpu", a cluster that grows may be asked for a GPU.
    """
    if client.is_connected():  # an address ray://…: a process of the cluster has to look
        resources: Resources = ray.get(ray.remote(num_cpus=0)(cluster_resources).remote(device))
        return resources
    group = get_current_placement_group()
    if group is not None:
        cpus, gpus = ([bundle.get(kind, 0.0) for bundle in group.bundle_specs] for kind in ("CPU", "GPU"))
        return Resources(sum(cpus), sum(gpus), max(cpus))
    leaving = leaving_nodes()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    cpus, gpus, memory = ([node.get(kind, 0.0) for node in nodes] for kind in ("CPU", "GPU", "memory"))
    grows = growth.grows()
    gpus_come = grows and device != "cpu" and growth.gpus_come()
    return Resources(sum(cpus), sum(gpus), max(cpus, default=0.0), max(memory, default=0.0), grows, gpus_come)


def leaving_nodes() -> frozenset[str]:
    """Nodes that are about to leave the cluster (preemption, scale-down)."""
    # Ray has no public function for it; Ray Train and Serve call this one, too.
    return frozenset(ray._private.state.state.get_draining_nodes())


def spread() -> dict[str, str]:
    """Options of an actor that may go to any node; in a placement group it stays with what that reserves."""
    return {"scheduling_strategy": "SPREAD"} if get_current_placement_group() is None else {}


def stable() -> dict[str, Any]:
    """Options of an actor that goes to a node that is not preemptible, where one has room.

    Ray's own label says which are: `RAY_NODE_MARKET_TYPE=spot` in the environment of `ray start`, or `--labels`.
    """
    if get_current_placement_group() is not None:
        return {}
    return {"label_selector": {MARKET_TYPE_LABEL: "!in(spot)"}, "fallback_strategy": [{"label_selector": {}}]}


def usable_cores() -> int:
    """Cores of this machine that this process may use (taskset, cpusets of Slurm and docker)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1


def _fewer_cores() -> dict[str, int]:
    """What a Ray of our own is told of the cores; it knows of quotas, but not of affinity."""
    cores = usable_cores()
    return {"num_cpus": cores} if cores < (os.cpu_count() or 1) else {}


def _own_folder() -> dict[str, str]:
    """What a Ray of our own is told of its folder: that of TMPDIR, as usual, or /tmp where it cannot be used."""
    wanted = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    for folder in (Path(wanted).absolute(), Path("/tmp")):
        if len(os.fsencode(folder)) <= SOCKET_BYTES and os.access(folder, os.W_OK | os.X_OK):
            return {"_temp_dir": str(folder / "ray")}
    raise UserError(
        f"TMPDIR={wanted}: neither there nor in /tmp can Ray make its sockets; set RAY_TMPDIR to a folder that can be "
        f"written and whose path has at most {SOCKET_BYTES} bytes"
    )


def cluster_answers(seconds: float) -> bool:
    """Return True if the cluster says, within so many seconds, that this process's node is alive.

    Ray itself waits without end, or ends the process, once its head or this machine's raylet is gone. What a process
    starts whose node has left the cluster is ended at once, for its owner is dead.
    """
    alive: list[bool] = []

    def ask() -> None:
        try:
            own = ray.get_runtime_context().get_node_id()
            alive.append(any(node["Alive"] and node["NodeID"] == own for node in ray.nodes()))
        except Exception:  # whatever Ray raises of a cluster that is gone
            alive.append(False)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(alive) and alive[0]


def see_cluster() -> "ClusterSeen":
    """What the cluster has now, and the nodes that are about to leave it."""
    from noprop_dist.engines.core.events import ClusterSeen  # not above: it imports torch, which Ray's start needs not

    leaving, resources = leaving_nodes(), cluster_resources()
    own_node_leaves = ray.get_runtime_context().get_node_id() in leaving
    return ClusterSeen(resources, leaving, own_node_leaves, growth.unmet() if resources.grows else ())


def cause_of_loss(error: RayError) -> str:
    """One line of why an actor is gone: what it raised, or how its process ended."""
    if isinstance(error, RayTaskError):
        return repr(error.cause)
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    if raised_by_constructor(error):
        return lines[-1]
    if isinstance(error, OutOfMemoryError):
        return (
            "Ray's memory monitor killed it, because its machine ran out of memory; a smaller training.batch_size or "
            "engine.blocks_per_worker, or fewer workers on a machine (engine.workers), make it need less"
        )
    if isinstance(error, ActorUnavailableError):
        return "its node does not answer"
    reason = re.search(r"because (its [^.]*)\.", " ".join(lines))
    return reason[1] if reason else lines[0]


def reason_of_loss(error: RayError) -> LossReason:
    """How an actor was lost, as Ray tells it."""
    if isinstance(error, OutOfMemoryError):
        return "out_of_memory"
    if isinstance(error, ActorUnavailableError) or (isinstance(error, RayActorError) and error.preempted):
        return "node_died"  # a process that dies alone is told as dead; this one's machine does not answer
    return "node_died" if cause_of_loss(error).startswith("its node") else "died"


def raised_by_constructor(error: RayError) -> bool:
    """Return True if an actor's own constructor raised; another incarnation would raise again."""
    return isinstance(error, RayActorError) and "creation task" in str(error)


def _resolved(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _check_somebody_listens(address: str, named: str) -> None:
    """Ray itself takes minutes to give up on an address where nothing listens. `named` says where the user gave it."""
    if address in ("local", "auto"):
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None:
        raise UserError(f"{named}: is no address; write HOST:PORT, with ray:// before it or not, or auto")
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS) as connection:
            answer = b"" if os.environ.get("RAY_USE_TLS") == "1" else _first_http2_frame(connection)
    except OSError as error:
        raise UserError(f"{named}: nobody answers there: {why(error)}") from error
    if answer and answer[3:4] != HTTP2_SETTINGS_TYPE:
        raise UserError(f"{named}: what answers there is no Ray cluster")


def _first_http2_frame(connection: socket.socket) -> bytes:
    """The first frame of a server's answer to an HTTP/2 greeting. For gRPC it is SETTINGS (RFC 9113, 3.4)."""
    empty_settings = b"\x00\x00\x00" + HTTP2_SETTINGS_TYPE + b"\x00\x00\x00\x00\x00"
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
    return connection.recv(9) or b"closed"
