"""Starts a coordinator, shows its progress, starts another if it is lost, and passes on how it ended.

The driver keeps no state: all that a run knows lies in its run directory.
"""

import functools
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from noprop_dist.config.schema import EngineSettings, RunConfig
from noprop_dist.engines.core.failure_policy import BY_CLOUD, CoordinatorLosses
from noprop_dist.engines.core.following import Following, HandedOverError, SilentError
from noprop_dist.engines.ray.actors import ACTOR_OPTIONS
from noprop_dist.engines.ray.callbacks import check_travels, pickled
from noprop_dist.engines.ray.cluster import cause_of_loss, cluster_answers, ray_session, reason_of_loss, stable
from noprop_dist.engines.ray.coordinator import Coordinator
from noprop_dist.engines.ray.spares import SpareProcesses
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.models.custom import is_installed
from noprop_dist.records import noted_phases
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import StorageError, UnusableStorageError
from noprop_dist.tracking.callback import Callback
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.setup import NOTHING, Given

POLL_SECONDS = 0.5
CLUSTER_SECONDS = 10.0
"""For a cluster to say which of its nodes are alive."""


def train_on_ray(
    config: RunConfig,
    directory: str,
    on_progress: Callable[[RunProgress], None],
    resume: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    *,
    coordinator_class: type[Any] = Coordinator,
    trusted: bool = True,
    given: Given = NOTHING,
    callbacks: Sequence[Callback] = (),
    joined: Callable[[], None] = lambda: None,
) -> RunOutcome:
    """Run a training run on Ray to its end.

    Args:
        config: of the run.
        directory: of the run, on storage that the coordinator's node reaches.
        on_progress: told about twice a second how far the run is.
        resume: continue the run that lies there.
        stopped: asked about twice a second; once it says yes, the run is snapshotted and ended.
        say: told what happens to the coordinator.
        coordinator_class: made with (config, directory, resume, trusted=…, has_begun=…, phases=…, given=…,
            callbacks=…); has `run`, `progress` and `stop`.
        trusted: whether the user named the networks, or gave `--trust-code`.
        given: what was handed over in Python; it is sent to the coordinator.
        callbacks: of the user's own; each coordinator gets a copy of them as they are now.
        joined: called once the address proved to be that of a cluster, and before anything runs there.

    Raises:
        UserError: configuration, data, run directory or address cannot be used.
        TrainingError: a stage could not be trained to its end, or the coordinator was lost more than
            engine.max_failures times in a row.
    """
    losses = CoordinatorLosses(config.engine.max_failures, config.checkpoint.storage_timeout_seconds)

    has_begun = resume

    def watch(progress: RunProgress) -> None:
        nonlocal trusted, has_begun
        has_begun = True  # its coordinator has entered the directory
        trusted |= losses.reset_by(progress)  # a coordinator on another node need not know the networks
        on_progress(progress)

    _send_by_value(given)
    options = {"given": given, "callbacks": pickled(callbacks)}
    with ray_session(config.engine.address):
        joined()
        spares = SpareProcesses(config.engine.spare_processes)
        while True:
            spares.started(ray.get_runtime_context().get_node_id(), time.monotonic(), again=resume)
            known = {"trusted": trusted, "has_begun": has_begun, "phases": noted_phases("driver")}
            coordinator = _actor(coordinator_class).remote(config, directory, resume, **known, **options)
            try:
                return _Follower(coordinator, config.engine, watch, say, spares).follow(stopped)
            except HandedOverError as error:
                resume = True
                say(f"the coordinator's node leaves the cluster: {error}, and another one goes on elsewhere")
            except (RayActorError, SilentError) as error:
                by_cloud = isinstance(error, RayActorError) and reason_of_loss(error) in BY_CLOUD
                resume, cause, back_off_seconds = True, _cause(error), losses.lost(by_cloud)
                if not cluster_answers(CLUSTER_SECONDS):
                    raise TrainingError(
                        f"the Ray cluster, or this process's node of it, is gone ({cause}); "
                        f"{RunDirectory(directory).resume_command} continues the run"
                    ) from error
                if stopped() or back_off_seconds is None:
                    raise TrainingError(
                        f"the coordinator was lost: {cause}; {RunDirectory(directory).resume_command} continues the run"
                    ) from error
                say(f"the coordinator was lost ({cause}); a new one goes on from the run directory")
                time.sleep(back_off_seconds)
            except (StorageError, UnusableStorageError) as error:
                wait_seconds = None if stopped() else losses.storage_failed(time.monotonic())
                if wait_seconds is None:
                    raise _unusable(error) from None
                say(
                    f"a new coordinator cannot go on ({error}); it is tried again for "
                    f"checkpoint.storage_timeout_seconds={config.checkpoint.storage_timeout_seconds:g}"
                )
                time.sleep(wait_seconds)
            finally:
                ray.kill(coordinator)


def _send_by_value(given: Given) -> None:
    """Let the code of a network travel with it where a worker could not import it.

    Raises:
        UserError: it holds something that cannot be sent.
    """
    factory = given.network.func if isinstance(given.network, functools.partial) else given.network
    module = sys.modules.get(getattr(factory, "__module__", None) or "")
    if module is not None and module.__name__ != "__main__" and not is_installed(module.__file__):
        ray.cloudpickle.register_pickle_by_value(module)
    check_travels(given.network, "network", "make locks, open files and connections where it is built")


def _cause(error: RayActorError | SilentError) -> str:
    return cause_of_loss(error) if isinstance(error, RayActorError) else str(error)


def _unusable(error: StorageError | UnusableStorageError) -> TrainingError | UnusableStorageError:
    if isinstance(error, UnusableStorageError):
        return error
    return TrainingError(f"the run directory cannot be read or written: {error}")


def _actor(coordinator_class: type[Any]) -> Any:
    return ray.remote(coordinator_class).options(
        name="Coordinator",
        namespace=f"noprop-{uuid.uuid4().hex[:12]}",  # actors of one run never collide with another's
        num_cpus=0,
        max_concurrency=3,  # `progress` and `stop` are answered while `run` runs
        **stable(),
        **ACTOR_OPTIONS,
    )


class _Follower:
    """Follows one coordinator to the end of its run.

    Args:
        coordinator: the actor.
        engine: settings.
        on_progress: told how far the run is.
        say: told that the coordinator does not answer, and what it waits for.
        spares: for another coordinator on this node.
    """

    def __init__(
        self,
        coordinator: Any,
        engine: EngineSettings,
        on_progress: Callable[[RunProgress], None],
        say: Callable[[str], None],
        spares: SpareProcesses,
    ) -> None:
        self._coordinator, self._spares = coordinator, spares
        self._following = Following(engine, on_progress, say, time.monotonic())
        self._asked: Any = None

    def follow(self, stopped: Callable[[], bool]) -> RunOutcome:
        """Wait for the end of the run; once `stopped` says yes, ask for it.

        Raises:
            TrainingError: the run failed, or did not end in time.
            UserError: something cannot be used.
            StorageError: the run directory cannot be read or written.
            HandedOverError: its node is about to leave.
            RayActorError: the coordinator is lost.
            SilentError: it does not answer any more.
        """
        run = self._coordinator.run.remote()
        try:
            while not ray.wait([run], timeout=POLL_SECONDS)[0]:
                self._listen()
                if self._following.tells_to_stop(stopped(), time.monotonic()):
                    self._coordinator.stop.remote()
            self._asked = None  # ask anew: what was asked before may be answered with an earlier picture
            self._listen()
            outcome: RunOutcome = ray.get(run)
        except RayTaskError as error:
            if isinstance(error.cause, UserError | TrainingError | StorageError | HandedOverError):
                raise error.cause from None
            raise TrainingError(f"the coordinator failed: {error}") from error
        return outcome

    def _listen(self) -> None:
        """Ask for the progress, one question at a time, and show the answer once it is here."""
        self._spares.advance(time.monotonic())
        if self._asked is None:
            self._asked = self._coordinator.progress.remote()
        if ray.wait([self._asked], timeout=POLL_SECONDS)[0]:
            progress, self._asked = ray.get(self._asked), None
            self._following.answered(progress, time.monotonic())
        else:
            self._following.not_answered(time.monotonic())
