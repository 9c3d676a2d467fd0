"""Records what real Ray does to a run in each situation: python record.py FOLDER [SITUATION ...].

Each situation leaves FOLDER/SITUATION/: a trace for each coordinator, and `outside.jsonl` with what was done to the run
and what was seen of processes and nodes meanwhile, on the same clock.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
os.environ["PYTHONPATH"] = f"{HERE}:{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"
os.environ.pop("RAY_ADDRESS", None)

import ray  # noqa: E402

from noprop_dist.bench.live_run import LiveRun  # noqa: E402
from noprop_dist.engines.ray.loopback import loopback_cluster  # noqa: E402
from noprop_dist.records import (  # noqa: E402
    CheckpointCompleted,
    RoundDone,
    StageRecovered,
    WorkerLost,
    WorkerReady,
)

POLL_SECONDS = 0.05


class RecordedRun(LiveRun):
    """A run whose coordinators write traces."""

    def _start(self, how, *arguments):
        _, folder, *options = arguments if how == "train" else (None, *arguments)
        settings = [*options[1::2], f"engine.address={self.cluster.address}"]
        command = [sys.executable, str(HERE / "recorded_run.py"), how, folder, *settings]
        with self.folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)


class Watcher:
    """Notes what is done to a run, and how its processes and nodes come and go, as Ray's tables and the kernel say."""

    def __init__(self, file):
        self._file = file.open("w", buffering=1)
        self._known, self._pids, self._over = {}, {}, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def note(self, kind, target="", **more):
        self._file.write(json.dumps({"now": round(time.monotonic(), 3), "kind": kind, "target": target, **more}) + "\n")

    def close(self):
        self._over.set()
        self._thread.join(10)

    def _watch(self):
        while not self._over.wait(POLL_SECONDS):
            with suppress(Exception):
                self._look()

    def _look(self):
        for pid, what in list(self._pids.items()):
            state = state_of(pid)
            self._differs(("process", pid), state, what=what, pid=pid)
            if state == "gone":
                del self._pids[pid]
        for node in ray.nodes():
            self._differs(("node", node["NodeID"]), "alive" if node["Alive"] else "dead")
        self._differs(("cores", ""), ray.cluster_resources().get("CPU", 0.0))
        self._differs(("draining", ""), sorted(ray._private.state.state.get_draining_nodes()))
        for actor in ray._private.state.actors().values():
            pid = actor["Pid"]
            if pid and pid not in self._pids and state_of(pid) != "gone":
                self._pids[pid] = actor["ActorClassName"]
            what, cause = actor["ActorClassName"], actor.get("DeathCause", "") if actor["State"] == "DEAD" else ""
            self._differs(("actor", actor["ActorID"]), actor["State"], what=what, pid=pid, cause=str(cause)[:600])

    def _differs(self, key, state, **more):
        if self._known.get(key) != state:
            self._known[key] = state
            self.note(f"{key[0]}: {state}", key[1], **more)


def state_of(pid):
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return {"Z": "gone", "T": "stopped"}.get(state, "there")
    return "gone"


class Scene:
    """One situation: a cluster, a run on it, and what is done to them."""

    def __init__(self, folder, cluster, watcher):
        self.folder, self.cluster, self.watcher = folder, cluster, watcher
        self.run = None

    def settings(self, *more, seconds=0.02, **network):
        arguments = ", ".join([f"seconds: {seconds}", *(f"{key}: '{value}'" for key, value in network.items())])
        return [
            "blocks.count=4",
            f"blocks.network={{kind: custom, path: 'networks:Slow', arguments: {{{arguments}}}}}",
            "training.max_steps=4000",
            "engine.round_steps=16",
            "checkpoint.snapshot_every_steps=32",
            "checkpoint.every_steps=96",
            "evaluation.samples=16",
            "metrics.port=null",
            "engine.max_failures=-1",
            "engine.hang_seconds=3",
            "engine.move_after_seconds=5",
            *more,
        ]

    def train(self, *more, **network):
        self.run = RecordedRun(self.folder / "run", self.settings(*more, **network), self.cluster)
        return self.run

    def ready(self, *workers):
        for worker in workers:
            self.run.wait_for(worker, partial(self.run.pid, worker))

    def trained(self, steps=48):
        """Wait until every block has done so many steps."""

        def done():
            reached = {}
            for each in self.run.records(RoundDone):
                if each.stage.is_block:
                    reached[each.stage] = max(each.step, reached.get(each.stage, 0))
            return len(reached) == 4 and min(reached.values()) >= steps

        self.run.wait_for(f"{steps} steps", done)

    def signal(self, worker, number=signal.SIGKILL):
        pid = self.run.pid(worker)
        self.watcher.note(number.name, worker, pid=pid)
        os.kill(pid, number)

    def count(self, kind, **fields):
        return sum(all(getattr(r, k) == v for k, v in fields.items()) for r in self.run.records(kind))

    def wait_count(self, kind, count, **fields):
        self.run.wait_for(f"{count} {kind.__name__} {fields}", lambda: self.count(kind, **fields) >= count)

    def stop(self, after=1.5):
        """Let the run go on for a moment, then stop it."""
        time.sleep(after)
        self.watcher.note("stop")
        Path(str(self.folder / "run") + ".stop").touch()
        code = self.run.ended()
        self.watcher.note("driver ended", str(code))

    def drain(self, number, seconds, reason="DRAIN_NODE_REASON_PREEMPTION"):
        node = self.cluster._nodes[number].node_id
        self.watcher.note("drain asked", node)
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self.cluster.address]
        command += ["--node-id", node, "--reason", reason, "--reason-message", "a test"]
        if seconds is not None:
            command += ["--deadline-remaining-seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.watcher.note("drain answered", node, rc=done.returncode, said=(done.stdout + done.stderr)[-300:])

    def node_of(self, worker):
        """The number of the node on which a worker's latest process is."""
        found = [each.node_id for each in self.run.records(WorkerReady) if each.worker == worker][-1]
        ids = [node.node_id for node in self.cluster._nodes]
        return ids.index(found) if found in ids else None

    def node_without_coordinator(self):
        """The number of a node with a block worker and without the coordinator."""
        here = self.node_of("coordinator")
        return next(n for n in map(self.node_of, ("block worker 1", "block worker 2")) if n not in (None, here))

    def kill_node(self, number):
        self.watcher.note("raylet SIGKILL", self.cluster._nodes[number].node_id)
        self.cluster.kill_node(number)
        self.watcher.note("raylet killed")

    def return_node(self, number):
        self.cluster.return_node(number)
        self.watcher.note("node added", self.cluster._nodes[number].node_id)


NODES = {"grows": 1, "replica_killed": 4, "leader_killed": 4}


def undisturbed(s):
    s.train("training.max_steps=128")
    s.run.finish()


def block_worker_killed(s):
    s.train()
    s.trained()
    s.signal("block worker 1")
    s.wait_count(StageRecovered, 2)
    s.stop()


def classifier_killed_at_work(s):
    s.train("training.max_steps=20000", "checkpoint.snapshot_every_steps=320", "checkpoint.every_steps=3200")
    s.ready("classifier worker")
    s.run.wait_for("rounds", lambda: any(not r.stage.is_block for r in s.run.records(RoundDone)))
    s.signal("classifier worker")
    s.wait_count(WorkerReady, 2, worker="classifier worker")
    s.stop()


def classifier_killed_idle(s):
    s.train("training.max_steps=192")
    s.run.wait_for("its end", lambda: any(r.step == 192 for r in s.run.records(RoundDone) if not r.stage.is_block))
    s.signal("classifier worker")
    s.run.finish()


def evaluator_killed_idle(s):
    s.train()
    s.ready("evaluator")
    s.wait_count(CheckpointCompleted, 1)
    time.sleep(1)
    s.signal("evaluator")
    s.wait_count(WorkerReady, 2, worker="evaluator")
    s.stop()


def evaluator_killed_at_work(s):
    s.train("evaluation.samples=50000")
    s.ready("evaluator")
    s.wait_count(CheckpointCompleted, 1)
    s.signal("evaluator")
    s.wait_count(WorkerReady, 2, worker="evaluator")
    s.stop()


def block_worker_stopped(s):
    s.train()
    s.trained()
    s.signal("block worker 1", signal.SIGSTOP)
    s.wait_count(StageRecovered, 2)
    s.stop()


def block_worker_stopped_for_a_moment(s):
    s.train()
    s.trained()
    s.signal("block worker 1", signal.SIGSTOP)
    time.sleep(2.0)
    s.signal("block worker 1", signal.SIGCONT)
    s.stop(3)


def node_killed_and_back(s):
    s.train()
    s.trained()
    number = s.node_without_coordinator()
    s.kill_node(number)
    s.return_node(number)
    s.wait_count(StageRecovered, 2)
    s.stop()


def node_killed(s):
    s.train()
    s.trained()
    s.kill_node(s.node_without_coordinator())
    s.wait_count(StageRecovered, 2)
    s.stop(3)


def coordinators_node_killed(s):
    s.train()
    s.trained()
    while (number := s.node_of("coordinator")) is None:  # it is on the head
        count = s.count(WorkerReady, worker="block worker 1")
        s.signal("coordinator")
        s.wait_count(WorkerReady, count + 1, worker="block worker 1")
    count = s.count(WorkerReady, worker="block worker 1")
    s.kill_node(number)
    s.wait_count(WorkerReady, count + 1, worker="block worker 1")
    s.stop(3)


def raylet_stopped(s):
    """A node that answers nobody while its workers go on; it is taken for dead, and then goes on."""
    s.train()
    s.trained()
    node = s.cluster._nodes[s.node_without_coordinator()]
    raylet = node.all_processes["raylet"][0].process.pid
    s.watcher.note("raylet SIGSTOP", node.node_id)
    os.kill(raylet, signal.SIGSTOP)
    s.run.wait_for("the loss", lambda: s.run.records(WorkerLost))
    time.sleep(4)
    s.watcher.note("raylet SIGCONT", node.node_id)
    os.kill(raylet, signal.SIGCONT)
    s.wait_count(StageRecovered, 2)
    s.stop()


def returned_before_it_is_missed(s):
    """A new node is there before the old one is known to be dead: the cluster has too many cores for a while."""
    s.train()
    s.trained()
    node = s.cluster._nodes[s.node_without_coordinator()]
    s.watcher.note("raylet SIGSTOP", node.node_id)
    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGSTOP)
    s.cluster.add_node()
    s.watcher.note("node added", s.cluster._nodes[-1].node_id)
    s.run.wait_for("the loss", lambda: s.run.records(WorkerLost))
    s.wait_count(StageRecovered, 2)
    s.stop(4)
    s.kill_node(s.cluster._nodes.index(node))


def embedding_owner_killed(s):
    s.train("embedding.kind=learned")
    s.trained()
    s.signal("classifier worker")
    s.wait_count(WorkerReady, 2, worker="classifier worker")
    s.stop()


def drained(s):
    """A preemption of which nothing comes: what happens at the deadline."""
    s.train()
    s.trained()
    s.drain(s.node_without_coordinator(), 15)
    s.run.wait_for("the loss", lambda: s.run.records(WorkerLost))
    time.sleep(16)
    s.stop()


def drained_and_killed_at_once(s):
    """The node is gone before the run has heard of its leaving, or just when it has."""
    s.train()
    s.trained()
    number = s.node_without_coordinator()
    s.drain(number, 2)
    s.kill_node(number)
    s.run.wait_for("the loss", lambda: s.run.records(WorkerLost))
    s.wait_count(StageRecovered, 2)
    s.stop()


def drained_while_stalled(s):
    """A round takes longer than the notice."""
    stall = s.folder / "stall"
    s.train("engine.hang_seconds=60", stall_while=stall)
    s.trained()
    stall.touch()
    time.sleep(0.5)
    s.drain(s.node_without_coordinator(), 6)
    s.run.wait_for("the loss", lambda: s.run.records(WorkerLost))
    stall.unlink()
    s.stop(4)


def drained_as_idle(s):
    s.train()
    s.trained()
    s.drain(s.node_without_coordinator(), None, "DRAIN_NODE_REASON_IDLE_TERMINATION")
    time.sleep(5)
    s.stop()


def grows(s):
    s.train()
    s.ready("block worker 1")
    s.trained()
    s.cluster.add_node()
    s.watcher.note("node added", s.cluster._nodes[-1].node_id)
    s.ready("block worker 2")
    s.stop(3)


def no_room(s):
    """Another actor has one of the two cores; it leaves after a while, when the run has asked twice."""
    holder = ray.remote(num_cpus=1)(type("Holder", (), {"here": lambda self: None})).remote()
    ray.get(holder.here.remote())
    s.train("engine.start_timeout_seconds=12")
    s.trained(16)
    time.sleep(16)
    ray.kill(holder)
    s.watcher.note("room")
    s.run.wait_for("the second worker", lambda: s.count(WorkerReady) == 5)  # with coordinator and evaluator
    s.stop(3)


def constructor_raises(s):
    flag = s.folder / "flag"
    s.train()
    s.trained()
    flag.touch()
    s.signal("block worker 1")
    s.wait_count(WorkerLost, 2)
    s.stop(7)


def worker_raises(s):
    """A round raises that memory is out: the call fails, the process lives."""
    s.train(out_of_memory_if=s.folder / "memory")
    s.trained()
    (s.folder / "memory").touch()
    s.watcher.note("out of memory")
    s.wait_count(StageRecovered, 2)
    s.stop()


def replica_killed(s):
    s.train("training.replicas_per_block=2", "engine.stall_timeout_seconds=30")
    s.trained(32)
    pid = next(r for r in s.run.records(WorkerReady) if r.worker == "block worker 1").replica_pids[0]
    s.watcher.note("SIGKILL", "replica of block worker 1", pid=pid)
    os.kill(pid, signal.SIGKILL)
    s.wait_count(StageRecovered, 2)
    s.stop()


def leader_killed(s):
    s.train("training.replicas_per_block=2", "engine.stall_timeout_seconds=30")
    s.trained(32)
    s.signal("block worker 1")
    s.wait_count(StageRecovered, 2)
    s.stop()


def lanes(s):
    stall = s.folder / "stall"
    slow = f"{{kind: custom, path: 'networks:Slow', arguments: {{seconds: 0.02, stall_while: '{stall}'}}}}"
    s.train("engine.blocks_at_once=3", "engine.workers=1", f"blocks.networks.2={slow}", "engine.hang_seconds=30")
    s.trained()
    stall.touch()
    s.watcher.note("stall", "block 2")
    time.sleep(4)
    stall.unlink()
    s.watcher.note("stall over", "block 2")
    time.sleep(1)
    s.signal("block worker 1")
    s.wait_count(StageRecovered, 4)
    s.stop()


def lane_hangs(s):
    stall = s.folder / "stall"
    slow = f"{{kind: custom, path: 'networks:Slow', arguments: {{seconds: 0.02, stall_while: '{stall}'}}}}"
    s.train("engine.blocks_at_once=3", "engine.workers=1", f"blocks.networks.2={slow}")
    s.trained()
    stall.touch()
    s.watcher.note("stall", "block 2")
    s.run.wait_for("the loss", lambda: s.run.records(WorkerLost))
    stall.unlink()
    s.wait_count(StageRecovered, 4)
    s.stop()


def coordinator_killed(s):
    s.train()
    s.trained()
    s.signal("coordinator")
    s.wait_count(WorkerReady, 2, worker="block worker 1")
    s.stop()


def coordinator_stopped(s):
    s.train("engine.coordinator_timeout_seconds=5")
    s.trained()
    s.signal("coordinator", signal.SIGSTOP)
    s.wait_count(WorkerReady, 2, worker="block worker 1")
    s.stop()


def worker_stopped_and_coordinator_killed(s):
    """What is stopped outlives the coordinator that it belongs to."""
    s.train()
    s.trained()
    s.signal("block worker 1", signal.SIGSTOP)
    s.signal("coordinator")
    s.wait_count(WorkerReady, 2, worker="block worker 1")
    s.wait_count(WorkerReady, 2, worker="block worker 2")
    s.stop()


def driver_killed(s):
    s.train()
    s.trained()
    os.kill(s.run.driver_pid, signal.SIGKILL)
    s.watcher.note("SIGKILL", "driver")
    s.run.resume()
    s.watcher.note("resume started")
    s.wait_count(WorkerReady, 2, worker="block worker 1")
    s.stop()


def large_snapshots(s):
    s.train("checkpoint.snapshot_every_steps=16", "checkpoint.every_steps=64", seconds=0.005, width=1500)
    s.trained(160)
    s.stop(4)


def large_snapshots_node_killed(s):
    s.train("checkpoint.snapshot_every_steps=16", "checkpoint.every_steps=64", seconds=0.005, width=1500)
    s.trained(64)
    s.kill_node(s.node_without_coordinator())
    s.wait_count(StageRecovered, 2)
    s.stop()


def two_workers_killed(s):
    s.train()
    s.trained()
    s.signal("block worker 1")
    s.signal("block worker 2")
    s.wait_count(StageRecovered, 4)
    s.stop()


def node_and_worker_killed(s):
    s.train()
    s.trained()
    number = s.node_without_coordinator()
    other = next(worker for worker in ("block worker 1", "block worker 2") if s.node_of(worker) != number)
    s.signal(other)
    s.kill_node(number)
    s.return_node(number)
    s.wait_count(StageRecovered, 4)
    s.stop()


def killed_while_starting(s):
    s.train()
    s.trained()
    s.signal("block worker 1")
    s.run.wait_for("a process that starts", starting_processes)
    pid = starting_processes()[0]
    s.watcher.note("SIGKILL", "block worker that starts", pid=pid)
    os.kill(pid, signal.SIGKILL)
    s.wait_count(StageRecovered, 2)
    s.stop()


def starting_processes():
    """Processes that Ray has named after the constructor that they run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if "BlockWorker.__init__" in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(entry.name))
    return found


SITUATIONS = [
    undisturbed, block_worker_killed, classifier_killed_at_work, classifier_killed_idle, evaluator_killed_idle,
    evaluator_killed_at_work, block_worker_stopped, block_worker_stopped_for_a_moment, node_killed_and_back,
    node_killed, coordinators_node_killed, raylet_stopped, returned_before_it_is_missed, embedding_owner_killed,
    drained, drained_and_killed_at_once, drained_while_stalled, drained_as_idle, grows, no_room,
    constructor_raises, worker_raises, replica_killed, leader_killed, lanes, lane_hangs, coordinator_killed,
    coordinator_stopped, worker_stopped_and_coordinator_killed, driver_killed, large_snapshots,
    large_snapshots_node_killed, two_workers_killed,
    node_and_worker_killed, killed_while_starting,
]  # fmt: skip


def record(situation, folder):
    folder.mkdir(parents=True)
    os.environ["TRACE_FLAG"] = str(folder / "flag")  # before the cluster: its processes are given it
    with loopback_cluster(NODES.get(situation.__name__, 2)) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="watcher")
        watcher = Watcher(folder / "outside.jsonl")
        scene = Scene(folder, cluster, watcher)
        try:
            situation(scene)
            time.sleep(1)
        finally:
            if scene.run is not None:
                scene.run.end()
            watcher.close()
            ray.shutdown()


if __name__ == "__main__":
    for situation in SITUATIONS:
        if situation.__name__ in (sys.argv[2:] or [situation.__name__]):
            began = time.monotonic()
            try:
                record(situation, Path(sys.argv[1]) / situation.__name__)
                print(f"{situation.__name__}: {time.monotonic() - began:.0f} s", flush=True)
            except Exception as error:  # the others are recorded all the same
                print(f"{situation.__name__}: {type(error).__name__}: {error}", flush=True)
