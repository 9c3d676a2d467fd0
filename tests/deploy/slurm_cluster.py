"""A Slurm cluster on this machine: a controller and two nodes, each with what a machine of its own would have.

A node is a set of namespaces: an address, a host name, /etc/hosts, /tmp, /dev/shm and processes of its own. All of it
is gone with the process that started it, and nothing of this machine is changed. Needs root and Debian's `slurm-wlm`.
The file system that they share is a folder of this machine, which they see as /srv.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "nsenter", "setpriv", "ip")
NODES = {"n1": "10.77.0.1", "n2": "10.77.0.2"}
USERS = {"ada": 61001, "ben": 61002}
SETTINGS = """\
ClusterName=test
SlurmctldHost=login(10.77.0.254)
AuthType=auth/munge
AuthInfo=socket=/srv/munge/socket,cred_expire=5
SlurmUser=root
StateSaveLocation=/srv/state
SlurmdSpoolDir=/srv/spool-%n
SlurmctldPidFile=/srv/slurmctld.pid
SlurmdPidFile=/srv/slurmd-%n.pid
SlurmctldLogFile=/srv/slurmctld.log
SlurmdLogFile=/srv/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=30
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeAddr=10.77.0.1 CPUs=8
NodeName=n2 NodeAddr=10.77.0.2 CPUs=8
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 OverSubscribe=NO
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""
LOGIN = """\
mount --bind /srv/passwd /etc/passwd
hostname login
ip link set lo up
ip link add br0 type bridge
ip address add 10.77.0.254/24 dev br0
ip link set br0 up
"""
NODE = """\
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind /srv/hosts-{name} /etc/hosts
hostname {name}
ip link set lo up
ip address add {address}/24 dev eth0
ip link set eth0 up
"""
MUNGED = """\
cd /srv/munge
munged --key-file=$PWD/key --socket=$PWD/socket --pid-file=$PWD/pid --log-file=$PWD/log --seed-file=$PWD/seed
"""
NAMESPACES = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]


def why_not() -> str | None:
    """Why there can be no such cluster here."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not found: Debian's slurm-wlm is not installed"
    tried = subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"the nodes' namespaces need root: {tried.stderr.strip()}"


class Machine:
    """Namespaces that end with the standard input of their first process."""

    def __init__(self, host: "Machine | None" = None) -> None:
        self._inside: list[str] = [] if host is None else host.entered
        self._process = subprocess.Popen(
            [*self._inside, "unshare", *NAMESPACES, "bash", "-c", "echo; read"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._process.stdout.readline()
        self.pid = _last_child(self._process.pid)

    @property
    def entered(self) -> list[str]:
        """What to put before a command that runs in it."""
        return ["nsenter", "--target", str(self.pid), "--all", "--"]

    def run(self, script: str) -> str:
        """The output of a script of bash, as root."""
        env = {**os.environ, "SLURM_CONF": "/srv/slurm.conf"}
        command = [*self.entered, "bash", "-euc", script]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)


class SlurmCluster:
    """Two nodes of eight CPUs, and the machine from which jobs are submitted.

    Args:
        folder: a new one, which the nodes share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write_files()
        self.login = Machine()
        self.login.run(_mounts(folder) + LOGIN)
        self.nodes = {name: self._node(name, address) for name, address in NODES.items()}
        self.login.run(MUNGED)
        self.login.run("slurmctld")
        for node in self.nodes.values():
            node.run("slurmd -N $(hostname)")
        self.wait(self.is_free, 60, "two idle nodes")

    def slurm(self, command: str, user: str = "ada", **variables: str) -> str:
        """The output of a command of Slurm, given in the project's folder as some user."""
        uid, home = USERS[user], f"/srv/home/{user}"
        env = {"HOME": home, "USER": user, "PATH": os.environ["PATH"], "SLURM_CONF": "/srv/slurm.conf",
               "PYTHONPATH": str(ROOT), **variables}  # fmt: skip
        done = subprocess.run(
            [*self.login.entered, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
             "bash", "-c", f"cd /srv/project && {command}"],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def is_free(self) -> bool:
        """Whether no node has anything to do."""
        return self.slurm("sinfo --Node --noheader --partition=usual --format=%T").split() == ["idle"] * len(NODES)

    def left_over(self) -> list[str]:
        """Folders of Ray on the nodes, as NODE:PATH."""
        found = {
            name: node.run("shopt -s nullglob; echo /tmp/ra[y] /tmp/noprop-[0-9]*") for name, node in self.nodes.items()
        }
        return [f"{name}:{path}" for name, paths in found.items() for path in paths.split()]

    def wait(self, there, seconds, what):
        """What a function returns, once that is true; it is asked twice a second."""
        deadline = time.monotonic() + seconds
        while not (found := there()):
            assert time.monotonic() < deadline, f"no {what} within {seconds} s"
            time.sleep(0.5)
        return found

    def close(self) -> None:
        for machine in (*self.nodes.values(), self.login):
            machine.close()

    def _write_files(self) -> None:
        self.folder.chmod(0o755)
        for name in ("munge", "state", "spool-n1", "spool-n2", "project", "home"):
            (self.folder / name).mkdir()
        for name, uid in USERS.items():
            (self.folder / "home" / name).mkdir()
            os.chown(self.folder / "home" / name, uid, uid)
        (self.folder / "slurm.conf").write_text(SETTINGS)
        lines = [f"{name}:x:{uid}:{uid}::/srv/home/{name}:/bin/bash\n" for name, uid in USERS.items()]
        (self.folder / "passwd").write_text(Path("/etc/passwd").read_text() + "".join(lines))
        key = self.folder / "munge/key"
        key.touch(0o600)
        key.write_bytes(os.urandom(64))
        (self.folder / "project/launch").symlink_to(ROOT / "launch")
        (self.folder / "project/.venv").symlink_to(sys.prefix)
        (self.folder / "project").chmod(0o1777)

    def _node(self, name: str, address: str) -> Machine:
        # As Debian's installer writes it: a node's own name is an address that no other machine reaches.
        others = "".join(f"{where} {other}\n" for other, where in NODES.items() if other != name)
        (self.folder / f"hosts-{name}").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n{others}")
        node = Machine(self.login)
        link = ["nsenter", "--target", str(self.login.pid), "--net", "ip", "link"]
        subprocess.run([*link, "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(node.pid)], check=True)
        subprocess.run([*link, "set", name, "up", "master", "br0"], check=True)
        node.run(_new(Path("/tmp"), "1777") + NODE.format(name=name, address=address))
        return node


def _last_child(pid: int) -> int:
    """Of a process whose descendants each have one child."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def _mounts(folder: Path) -> str:
    """Commands that mount the folder as /srv, and let every user reach the project and its Python."""
    closed = {top for path in NEEDED if (top := _closed(path)) is not None}
    return f"mount --make-rprivate /; mount --bind {folder} /srv; " + "".join(_new(top) for top in sorted(closed))


def _new(top: Path, mode: str = "755") -> str:
    """Commands that put an empty folder over one of this machine's; what is needed of that stays."""
    script = f"aside=$(mktemp -d -p /srv); mount --rbind {top} $aside; mount -t tmpfs -o mode={mode} tmpfs {top}; "
    for path in sorted(path for path in NEEDED if path.is_relative_to(top)):
        script += f"mkdir -p {path}; mount --rbind $aside/{path.relative_to(top)} {path}; "
    return script + "umount --lazy $aside; rmdir $aside; "


def _closed(path: Path) -> Path | None:
    """The outermost folder of a path that not every user may enter."""
    return next((each for each in reversed([path, *path.parents]) if not each.stat().st_mode & 1), None)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A `SlurmCluster` that ends with the `with`."""
    cluster = SlurmCluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
