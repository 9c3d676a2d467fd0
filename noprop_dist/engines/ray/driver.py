"""Starts a coordinator, shows its progress, starts another if it is lost, and passes on how it ended.

The driver keeps no state: all that a run knows lies in its run directory.
"""

import time
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from noprop_dist.config.schema import RunConfig
from noprop_dist.engines.core.failure_policy import back_off_seconds, within_budget
from noprop_dist.engines.ray.cluster import cause_of_loss, ray_session
from noprop_dist.engines.ray.coordinator import Coordinator
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.progress import RunProgress

POLL_SECONDS = 0.5
PROGRESS_TIMEOUT_SECONDS = 5.0
AFTER_GRACE_SECONDS = 10.0


def train_on_ray(
    config: RunConfig,
    directory: str,
    on_progress: Callable[[RunProgress], None],
    resume: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    coordinator_class: type[Any] = Coordinator,
) -> RunOutcome:
    """Run a training run on Ray to its end.

    Args:
        config: of the run.
        directory: of the run, on storage that the coordinator's node reaches.
        on_progress: told about twice a second how far the run is.
        resume: continue the run that lies there.
        stopped: asked about twice a second; once it says yes, the run is snapshotted and ended.
        say: told what happens to the coordinator.
        coordinator_class: made with (config, directory, resume); has `run`, `progress` and `stop`.

    Raises:
        UserError: configuration, data, run directory or address cannot be used.
        TrainingError: a stage could not be trained to its end, or the coordinator was lost more than
            engine.max_failures times in a row.
    """
    losses = 0  # in a row: since a coordinator last got a block to train

    def watch(progress: RunProgress) -> None:
        nonlocal losses
        if any(stage.state == "training" for stage in progress.stages):
            losses = 0
        on_progress(progress)

    with ray_session(config.engine.address):
        while True:
            coordinator = _actor(coordinator_class).remote(config, directory, resume)
            try:
                return _follow(coordinator, watch, stopped, config.engine.grace_seconds)
            except RayActorError as error:
                losses, resume, cause = losses + 1, True, cause_of_loss(error)
                if stopped() or not within_budget(losses, config.engine.max_failures):
                    raise TrainingError(
                        f"the coordinator was lost: {cause}; `noprop-dist resume {directory}` continues the run"
                    ) from error
                say(f"the coordinator was lost ({cause}); a new one goes on from the run directory")
                time.sleep(back_off_seconds(losses - 1))
            finally:
                ray.kill(coordinator)


def _actor(coordinator_class: type[Any]) -> Any:
    return ray.remote(coordinator_class).options(
        name="Coordinator",
        namespace=f"noprop-{uuid.uuid4().hex[:12]}",  # actors of one run never collide with another's
        num_cpus=0,
        max_concurrency=3,  # `progress` and `stop` are answered while `run` runs
        max_restarts=0,
        max_task_retries=0,
    )


def _follow(
    coordinator: Any,
    on_progress: Callable[[RunProgress], None],
    stopped: Callable[[], bool],
    grace_seconds: float,
) -> RunOutcome:
    run, deadline = coordinator.run.remote(), None
    try:
        while not ray.wait([run], timeout=POLL_SECONDS)[0]:
            _show(coordinator, on_progress)
            if stopped() and deadline is None:
                coordinator.stop.remote()
                deadline = time.monotonic() + grace_seconds + AFTER_GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                raise TrainingError("the coordinator did not end within engine.grace_seconds")
        _show(coordinator, on_progress)
        outcome: RunOutcome = ray.get(run)
    except RayTaskError as error:
        if isinstance(error.cause, UserError | TrainingError):
            raise error.cause from None
        raise TrainingError(f"the coordinator failed: {error}") from error
    return outcome


def _show(coordinator: Any, on_progress: Callable[[RunProgress], None]) -> None:
    try:
        progress = ray.get(coordinator.progress.remote(), timeout=PROGRESS_TIMEOUT_SECONDS)
    except GetTimeoutError:
        return  # a busy coordinator answers next time
    if progress is not None:
        on_progress(progress)
