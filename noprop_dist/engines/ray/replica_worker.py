"""A block worker of several processes: a leader, which the coordinator knows, and the replicas that it starts.

    coordinator ──► BlockGroup (rank 0) ──► Replica (rank 1), Replica (rank 2), …
                          └──── gradients, batch statistics ────┘   torch.distributed, within the group alone

To everybody else a group is one worker, and it ends as one. If a replica is lost, the leader's next sum over the
group fails, and the leader ends, too. If the leader is lost, Ray ends the replicas, because the leader owns them. Then
the coordinator starts another group, as it would another worker. Other blocks do not notice.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from noprop_dist.data.dataset import Labels
from noprop_dist.data.inputs import Inputs
from noprop_dist.engines.core.actor_pool import CONTROL_LANE
from noprop_dist.engines.ray.workers import BlockWorker
from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round, RoundKey
from noprop_dist.training.messages import Accompanied, RoundReport, StageFailure, WorkerFacts
from noprop_dist.training.replicas import GroupLostError, ReplicaGroup
from noprop_dist.training.setup import RunSetup


class Replica(BlockWorker):
    """One process of a group.

    Args:
        setup: of the run.
        inputs: of the training split.
        labels: of the same samples.
        rank: of the process in its group; 0 is the leader.
    """

    def __init__(self, setup: RunSetup, inputs: Inputs, labels: Labels, rank: int) -> None:
        super().__init__(setup, inputs, labels, ReplicaGroup(rank, setup.config.training.replicas_per_block))

    def join(self, host: str, port: int) -> None:
        """Form the group with the others, whose leader listens at this address.

        Raises:
            RuntimeError: not all came in time.
        """
        timeout = timedelta(seconds=self._setup.config.engine.start_timeout_seconds)
        self._form(TCPStore(host, port, self._group.size, is_master=False, timeout=timeout))

    def _form(self, store: TCPStore) -> None:
        engine = self._setup.config.engine
        dist.init_process_group(
            "nccl" if self._device.type == "cuda" else "gloo",
            store=store,
            rank=self._group.rank,
            world_size=self._group.size,
            timeout=timedelta(seconds=engine.stall_timeout_seconds),
        )


class BlockGroup(Replica):
    """The leader: does what a block worker does, and has its replicas do the same.

    Args:
        setup: of the run.
        data: references to inputs and labels of the training split.
        options: what each replica asks of the cluster.
    """

    def __init__(self, setup: RunSetup, data: Sequence[Any], options: Mapping[str, Any]) -> None:
        inputs, labels = ray.get(list(data))
        super().__init__(setup, inputs, labels, rank=0)
        actor = ray.remote(**options)(Replica)
        self._others = [actor.remote(setup, *data, rank) for rank in range(1, self._group.size)]
        self._ended = False

    def facts(self) -> WorkerFacts:
        """Form the group, and say where its leader and its other processes are."""
        timeout = timedelta(seconds=self._setup.config.engine.start_timeout_seconds)
        host = ray.util.get_node_ip_address()
        store = TCPStore(host, 0, self._group.size, is_master=True, timeout=timeout, wait_for_workers=False)
        joining = [other.join.remote(host, store.port) for other in self._others]
        self._form(store)
        self._wait(joining)
        others = self._wait([other.facts.remote() for other in self._others])
        return super().facts().with_replicas(others)

    def hold(self, stage: Stage, snapshot: Snapshot | None) -> StageFailure | Accompanied | None:
        """Take a stage in, in all processes of the group."""
        kept = ray.put(snapshot)
        told = [other.hold.remote(stage, kept) for other in self._others]
        failure = super().hold(stage, snapshot)
        self._wait(told)
        return failure

    def release(self, stage: Stage) -> None:
        """Let a stage go, in all processes of the group."""
        self._wait([other.release.remote(stage) for other in self._others])
        super().release(stage)

    def train(self, work: Round | RoundKey) -> RoundReport | StageFailure | Accompanied | None:
        """Do the steps of a round together; None if the group was told to stop before."""
        if self._ended:
            return None
        told = [other.train.remote(work) for other in self._others]
        done = super().train(work)
        self._wait(told)
        return done

    def ping(self) -> None:
        """Answer once all processes of the group have: one that is stuck holds up the others."""
        self._wait([other.ping.options(concurrency_group=CONTROL_LANE).remote() for other in self._others])

    def stop(self) -> None:
        """Begin no further round. One that is under way is done to its end, because all must do the same steps."""
        self._ended = True

    def _wait(self, told: Sequence[Any]) -> list[Any]:
        """Wait for the answers of the others.

        Raises:
            GroupLostError: one of them is gone, or silent.
        """
        try:
            answers: list[Any] = ray.get(list(told), timeout=self._setup.config.engine.stall_timeout_seconds)
        except ray.exceptions.RayError as error:
            raise GroupLostError(f"a replica was lost: {str(error).strip().splitlines()[0]}") from error
        return answers
