"""What the driver does: start a coordinator, show its progress, and pass on how it ended. It owns nothing."""

import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from noprop_dist.configuration.settings import RunConfig
from noprop_dist.distributed.cluster import cause_of_loss, ray_session
from noprop_dist.distributed.coordinator import Coordinator
from noprop_dist.distributed.messages import RunOutcome
from noprop_dist.distributed.room import reserved_room
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.training.progress import RunProgress

POLL_SECONDS = 0.5
PROGRESS_TIMEOUT_SECONDS = 5.0


def train_on_ray(
    config: RunConfig, directory: str, on_progress: Callable[[RunProgress], None], resume: bool = False
) -> RunOutcome:
    """Run a training run on Ray to its end.

    Args:
        config: of the run.
        directory: of the run, on storage that the coordinator's node reaches.
        on_progress: told about twice a second how far the run is.
        resume: continue the run that lies there.

    Raises:
        UserError: configuration, data, run directory or address cannot be used.
        TrainingError: a stage failed or an actor was lost; names it and the cause.
    """
    with ray_session(config.engine.address), reserved_room(config) as room:
        coordinator = (
            ray.remote(Coordinator)
            .options(
                name="Coordinator",
                namespace=f"noprop-{uuid.uuid4().hex[:12]}",  # actors of one run never collide with another's
                num_cpus=0,
                max_concurrency=2,  # `progress` is answered while `run` runs
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(config, directory, room, resume)
        )
        return _follow(coordinator, on_progress)


def _follow(coordinator: Any, on_progress: Callable[[RunProgress], None]) -> RunOutcome:
    run = coordinator.run.remote()
    try:
        while not ray.wait([run], timeout=POLL_SECONDS)[0]:
            _show(coordinator, on_progress)
        _show(coordinator, on_progress)
        outcome: RunOutcome = ray.get(run)
    except RayTaskError as error:
        if isinstance(error.cause, UserError | TrainingError):
            raise error.cause from None
        raise TrainingError(f"the coordinator failed: {error}") from error
    except RayActorError as error:
        raise TrainingError(f"the coordinator was lost: {cause_of_loss(error)}") from error
    return outcome


def _show(coordinator: Any, on_progress: Callable[[RunProgress], None]) -> None:
    try:
        progress = ray.get(coordinator.progress.remote(), timeout=PROGRESS_TIMEOUT_SECONDS)
    except GetTimeoutError:
        return  # a busy coordinator answers next time
    if progress is not None:
        on_progress(progress)
