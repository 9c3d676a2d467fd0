"""The trackers that `tracking` names, and what a run tells its callbacks of itself."""

import threading
from collections.abc import Callable, Mapping, Sequence

from noprop_dist.data.dataset import HeldOut
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.tracking.callback import Callback, RunInfo
from noprop_dist.tracking.folders import tracking_folder
from noprop_dist.tracking.host import CallbackHost
from noprop_dist.tracking.mlflow import MlflowCallback
from noprop_dist.tracking.tensorboard import TensorBoardCallback
from noprop_dist.tracking.wandb import WandbCallback

TRACKERS: Mapping[str, type[Callback]] = {
    "tensorboard": TensorBoardCallback,
    "mlflow": MlflowCallback,
    "wandb": WandbCallback,
}


def callback_host(plan: RunPlan, callbacks: Sequence[Callback]) -> CallbackHost:
    """What runs the trackers of a run and its own callbacks."""
    return CallbackHost([*(TRACKERS[name]() for name in dict.fromkeys(plan.config.tracking)), *callbacks])


def run_info(
    plan: RunPlan,
    directory: RunDirectory,
    held_out: HeldOut,
    assemble: Callable[[Mapping[Stage, Snapshot]], NoPropNetwork],
) -> RunInfo:
    """A run as its callbacks know it.

    Args:
        plan: of the run.
        directory: of the run.
        held_out: of its data; the test split's first sample is drawn on its path.
        assemble: puts the network of a checkpoint together.
    """

    def draw() -> Mapping[str, bytes]:
        from noprop_dist.reporting.run_report import tracked_pictures  # matplotlib: only runs with a tracker need it

        return tracked_pictures(plan, directory, held_out, assemble)

    name, pictures = str(directory).rpartition("/")[2], _Once(draw)
    return RunInfo(name, directory.link, plan, tracking_folder(directory), pictures)


class _Once:
    """Draws pictures when they are first asked for, and for all who ask."""

    def __init__(self, draw: Callable[[], Mapping[str, bytes]]) -> None:
        self._draw, self._drawing = draw, threading.Lock()
        self._drawn: Mapping[str, bytes] | None = None

    def __call__(self) -> Mapping[str, bytes]:
        with self._drawing:
            if self._drawn is None:
                self._drawn = self._draw()
            return self._drawn
