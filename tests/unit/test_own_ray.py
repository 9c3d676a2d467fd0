"""How a Ray of our own is started: where it makes its sockets, what ends its start, and what is said of it."""

import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from ray._private.parameter import RayParams

from noprop_dist.config.schema import RunConfig
from noprop_dist.engines.core.placement import Resources
from noprop_dist.engines.ray import ahead, cluster
from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.engines.ray.token import use_token_if_there_is_one
from noprop_dist.errors import UserError
from noprop_dist.files import have_a_home
from noprop_dist.training.setup import Given


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Starts a Ray, which does what it is told in place of starting; returns the options that it was given."""

    def start(instead=lambda: None):
        given = {}

        def init(**options):
            given.update(options)
            instead()

        monkeypatch.setattr(cluster.ray, "init", init)
        monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
        monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
        with cluster.ray_session("local"):
            return given

    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return start


def test_its_folder_is_that_of_tmpdir(started, monkeypatch):
    assert started()["_temp_dir"] == "/tmp/ray"
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert started()["_temp_dir"] == "/var/tmp/ray"


@pytest.mark.parametrize("folder", ["/proc/nonexistent", "long"])
def test_a_tmpdir_that_is_missing_or_too_long_for_sockets_is_left_alone(started, monkeypatch, tmp_path, folder):
    long = tmp_path / ("scratch-" * 8)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long) if folder == "long" else folder)
    assert started()["_temp_dir"] == "/tmp/ray"
    assert (
        len(f"{'x' * cluster.SOCKET_BYTES}/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store") == 107
    )


def test_where_no_folder_takes_its_sockets_one_sentence_says_what_would(started, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/proc/nonexistent")
    monkeypatch.setattr(cluster.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="TMPDIR=/proc/nonexistent: .* set RAY_TMPDIR to a folder .* at most 39 bytes"):
        started()


@pytest.mark.parametrize("error", [Exception, OSError, TimeoutError])
def test_a_start_that_fails_is_one_sentence(started, error):
    def fail():
        raise error("The current node timed out during startup.\nMore of it.")

    with pytest.raises(
        UserError, match="^Ray could not be started on this machine: The current node timed .* startup.$"
    ):
        started(fail)


def test_sigterm_while_it_starts_ends_with_143_and_leaves_our_handlers(started):
    before = signal.getsignal(signal.SIGTERM)

    def terminated():  # as Ray's own handler does it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(int(signal.SIGTERM))

    ours = signal.signal(signal.SIGTERM, lambda *_: None)
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            started(terminated)
        assert end.value.code == 143
        assert signal.getsignal(signal.SIGTERM) == mine
    finally:
        signal.signal(signal.SIGTERM, ours or before)


def test_a_user_without_a_home_has_no_token(monkeypatch):
    for name in ("HOME", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no passwd entry, either
    use_token_if_there_is_one()
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_user_without_a_home_gets_one_that_is_not_there(monkeypatch):
    monkeypatch.setenv("HOME", "kept")
    have_a_home()
    assert os.environ["HOME"] == "kept"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no passwd entry, either
    have_a_home()
    assert os.environ["HOME"] == "/nonexistent"


def test_an_address_out_of_the_environment_is_told_as_such(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="^RAY_ADDRESS=nonsense: is no address"), cluster.ray_session(None):
        pass
    with pytest.raises(UserError, match="^engine.address=other: is no address"), cluster.ray_session("other"):
        pass


def test_a_run_in_a_placement_group_counts_what_the_group_reserves_and_stays_in_it(monkeypatch):
    group = SimpleNamespace(bundle_specs=[{}, {"CPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}])
    monkeypatch.setattr(cluster, "get_current_placement_group", lambda: group)
    assert cluster.cluster_resources() == Resources(cpus=3.0, gpus=1.0, node_cpus=2.0)
    assert cluster.spread() == {}


@pytest.mark.parametrize("address", [None, "auto", "10.0.0.1:6379"])
def test_a_process_that_is_connected_already_stays_so(monkeypatch, address):
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setattr(cluster.ray, "init", None)
    monkeypatch.setattr(cluster.ray, "shutdown", None)
    with cluster.ray_session(address):
        pass
    monkeypatch.setattr(cluster, "_check_somebody_listens", lambda *_: None)
    other = "^engine.address=10.0.0.2:6379: this process is connected to another Ray cluster; ray.shutdown"
    with pytest.raises(UserError, match=other), cluster.ray_session("10.0.0.2:6379"):
        pass


def test_a_network_that_cannot_be_sent_is_told_before_anything_is_started(tmp_path):
    with (tmp_path / "file").open("w") as opened, pytest.raises(UserError, match="^network: cannot be sent to the run"):
        train_on_ray(RunConfig(), str(tmp_path), lambda _: None, given=Given(network=lambda **_: opened))


def test_a_ray_that_is_started_ahead_has_the_working_directory_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept, moved, seen = threading.Event(), threading.Event(), []

    def look():
        seen.append(ahead.keeps_working_directory())
        kept.set()
        moved.wait(10)
        seen.append(os.getcwd())  # noqa: PTH109
        seen.append(subprocess.run(["pwd"], capture_output=True, text=True, check=True).stdout.strip())

    thread = threading.Thread(target=look)
    thread.start()
    kept.wait(10)
    os.chdir("/")  # as `import_elsewhere` does it
    moved.set()
    thread.join(10)
    if not seen[0]:
        pytest.skip("unshare is not allowed here")
    assert seen == [True, str(tmp_path), str(tmp_path)]


@pytest.fixture
def session(monkeypatch):
    """What stands for a Ray of our own; lists what happens to it."""
    happened = []

    @contextmanager
    def own_ray():
        happened.append(f"begins in {threading.current_thread().name}")
        yield
        happened.append("ends")

    monkeypatch.setattr(cluster, "own_ray", own_ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return happened


def test_a_session_waits_for_a_ray_that_is_started_ahead_and_does_not_end_it(session, monkeypatch):
    with ahead.ray_ahead(None):
        with ahead.ray_ahead(None):  # within one there is no other
            monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
            assert not cluster.is_connected(), "it is no cluster that this process was in before"
            with cluster.ray_session(None):
                assert session == ["begins in start of Ray"]
        assert session == ["begins in start of Ray"]
    assert session == ["begins in start of Ray", "ends"]


def test_what_keeps_a_ray_from_starting_ahead_is_told_where_it_is_needed(monkeypatch):
    def own_ray():
        raise UserError("Ray could not be started on this machine: no room")

    monkeypatch.setattr(cluster, "own_ray", own_ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ahead.ray_ahead(None), pytest.raises(UserError, match="no room"), cluster.ray_session(None):
        pass


@pytest.mark.parametrize(("address", "environment"), [("10.0.0.1:6379", ""), (None, "10.0.0.1:6379")])
def test_no_ray_is_started_ahead_where_a_run_joins_one(session, monkeypatch, address, environment):
    monkeypatch.setenv("RAY_ADDRESS", environment)
    with ahead.ray_ahead(address):
        assert not ahead.is_under_way()
    assert session == []


def test_a_ray_of_our_own_starts_nothing_that_nobody_uses(started, monkeypatch):
    asked = []
    monkeypatch.setattr(cluster.ray._private.parameter, "RayParams", RayParams)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    started(lambda: asked.append(cluster.ray._private.parameter.RayParams(num_cpus=1)))
    assert (asked[0].no_monitor, asked[0].include_log_monitor, asked[0].dashboard_agent_listen_port) == (True, False, 0)
    assert cluster.ray._private.parameter.RayParams is RayParams
