"""Optimiser and learning-rate schedule of one stage, and one optimiser step."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from noprop_dist.config.schema import LearningRateSchedule, TrainingSettings
from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import WEIGHTS_ALONE, Arrays, Snapshot, check_fits, to_arrays, to_tensors
from noprop_dist.training.finite import check_weights
from noprop_dist.training.optimisers import SGD, Adam, AdamW
from noprop_dist.training.weight_average import TRAINED, WeightAverage

LEARNING_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_lrs", "_last_lr")
"""Names of learning rates in the state of torch's optimisers and schedules."""

LENGTHS = "T_max", "total_steps"
"""Names of the length of a cosine and of a one-cycle schedule in their state."""

OF_THE_PROCESS = ("params", "fused", "capturable")
"""Settings of an optimiser that depend on where it runs; a snapshot may come from another device."""


class Optimisation:
    """A module, its optimiser and schedule, and how many steps they have done.

    Args:
        stage: that is trained; names the snapshots.
        module: what is trained.
        settings: optimiser, weight decay, clipping and schedule.
        learning_rate: in place of the one in `settings`, which is the blocks'.
        total_steps: optimiser steps of the run, for schedules that need it.
        own_rates: learning rates of single submodules, by name, in place of `learning_rate`.
        average_: replaces gradients by their mean over replicas, in place.
    """

    def __init__(
        self,
        stage: Stage,
        module: nn.Module,
        settings: TrainingSettings,
        learning_rate: float,
        total_steps: int,
        own_rates: Mapping[str, float] = MappingProxyType({}),
        average_: Callable[[Sequence[Tensor]], None] = lambda _: None,
    ) -> None:
        self.stage = stage
        self.module = module
        self.steps_done = 0
        self._average_ = average_
        self._learning_rate = learning_rate
        self._settings, self._total_steps = settings, total_steps
        self._weight_decay = settings.weight_decay
        self._gradient_clip = settings.gradient_clip
        groups = _groups(module, learning_rate, own_rates)
        self._first_rates = [group["lr"] for group in groups]
        self._optimizer = _optimizer(groups, settings)
        self._scheduler = _scheduler(self._optimizer, settings.lr_schedule, total_steps)
        decay = settings.ema_decay
        self._ema = None if decay is None else WeightAverage(module, decay)
        device = next(module.parameters()).device
        self._rates = [torch.tensor(group["lr"], device=device) for group in self._optimizer.param_groups]

    def step(self, loss: Tensor, steps: int = 1) -> Tensor:
        """One optimiser step on a scalar loss.

        Args:
            loss: to be lowered.
            steps: of training that this one stands for.

        Returns:
            The norm of the gradient before clipping: a scalar on the device, not yet read.
        """
        norm = self.apply(loss)
        self.advance(steps)
        return norm

    def apply(self, loss: Tensor) -> Tensor:
        """The device's part of a step: gradient, clipping, new weights. It can be captured and replayed."""
        torch.autograd.backward(loss)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        self._average_(gradients)
        norm = nn.utils.get_total_norm(gradients)
        if self._gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.module.parameters(), self._gradient_clip, norm)
        with self._rates_on_device():
            self._optimizer.step()
        # Gradients that were kept would lie amid the memory that the next forward pass fills, and it would take up to a
        # sixth more (docs/measurements.md).
        self._optimizer.zero_grad(set_to_none=True)
        if self._ema is not None:
            self._ema.update()
        return norm

    def advance(self, steps: int = 1) -> None:
        """The host's part of a step: the next learning rate, and the count of steps."""
        if self._scheduler is not None:
            self._scheduler.step()
            self._fill_rates()
        self.steps_done += steps
        if self._ema is not None:
            self._ema.stands_at(self.steps_done)

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Let the optimiser read learning rates from the device's memory; schedules and snapshots have numbers."""
        numbers = [group["lr"] for group in self._optimizer.param_groups]
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, number in zip(self._optimizer.param_groups, numbers, strict=True):
                group["lr"] = number

    def _fill_rates(self) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            rate.fill_(group["lr"])

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory. Its weights are the average, where one is kept.

        Raises:
            NonFiniteError: the weights are not finite any more.
        """
        state = self._optimizer.state_dict()
        tensors = {f"{index}.{name}": value for index, entry in state["state"].items() for name, value in entry.items()}
        groups = [{name: value for name, value in g.items() if name != "params"} for g in state["param_groups"]]
        schedule = self._scheduler.state_dict() if self._scheduler is not None else None
        settings = {"learning_rate": self._learning_rate, "groups": groups, "schedule": schedule}
        weights = to_arrays(self.module.state_dict())
        check_weights(self.steps_done, weights)
        optimizer = to_arrays(tensors)
        if self._ema is not None:
            average = self._ema.to_arrays()
            optimizer |= {TRAINED + name: weights[name] for name in average}
            weights |= average
        return Snapshot(self.stage, self.steps_done, weights, optimizer, json.dumps(settings))

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of this stage, keeping the learning rate and the decay that are set now.

        Raises:
            ValueError: the snapshot is of another stage.
            DoesNotFitError: its weights do not fit the module.
        """
        if snapshot.stage != self.stage:
            raise ValueError(f"a snapshot of {snapshot.stage.name} cannot restore {self.stage.name}")
        check_fits(snapshot, self.module)
        weights = to_tensors(snapshot.weights)
        trained = {n.removeprefix(TRAINED): array for n, array in snapshot.optimizer.items() if n.startswith(TRAINED)}
        self.module.load_state_dict(weights | to_tensors(trained))
        if self._ema is not None:
            self._ema.restore(weights)
            self._ema.stands_at(snapshot.step)
        if snapshot.settings != WEIGHTS_ALONE:
            self._restore_optimizer(snapshot)
        self.steps_done = snapshot.step

    def _restore_optimizer(self, snapshot: Snapshot) -> None:
        settings = json.loads(snapshot.settings)
        if self._scheduler is not None and _lengths(settings["schedule"]) != _lengths(self._scheduler.state_dict()):
            settings |= self._as_in_a_run_of_this_length(settings["schedule"]["last_epoch"])
        elif settings["learning_rate"] != self._learning_rate:
            settings = _scaled(settings, self._learning_rate / settings["learning_rate"])
        present = self._optimizer.state_dict()["param_groups"]
        groups = [
            saved | {name: now[name] for name in OF_THE_PROCESS if name in now} | {"weight_decay": self._weight_decay}
            for saved, now in zip(settings["groups"], present, strict=True)
        ]
        self._optimizer.load_state_dict({"state": _by_parameter(snapshot.optimizer), "param_groups": groups})
        for parameter, state in self._optimizer.state.items():
            for name, value in state.items():
                if value.shape == parameter.shape:  # fused optimisers need the memory layout of the weight
                    state[name] = torch.empty_like(parameter).copy_(value)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(settings["schedule"])
        self._fill_rates()

    def _as_in_a_run_of_this_length(self, scheduled: int) -> dict[str, Any]:
        """Groups and schedule after so many steps of a schedule of this run's length: the snapshot's was another.

        Torch knows a schedule by its steps only, so they are done again, on weights that do not matter.
        """
        groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in self._first_rates]
        optimizer = _optimizer(groups, self._settings)
        scheduler = _scheduler(optimizer, self._settings.lr_schedule, self._total_steps)
        assert scheduler is not None
        optimizer.step()  # without gradients it does nothing; torch warns where a schedule moves before the optimiser
        for _ in range(scheduled):
            scheduler.step()
        return {"groups": optimizer.state_dict()["param_groups"], "schedule": scheduler.state_dict()}


def _groups(module: nn.Module, learning_rate: float, own_rates: Mapping[str, float]) -> list[dict[str, Any]]:
    names = tuple(f"{name}." for name in own_rates)
    common = [parameter for name, parameter in module.named_parameters() if not name.startswith(names)]
    own = ({"params": list(module.get_submodule(name).parameters()), "lr": rate} for name, rate in own_rates.items())
    return [{"params": common, "lr": learning_rate}, *own]


def _optimizer(groups: list[dict[str, Any]], settings: TrainingSettings) -> Optimizer:
    decay = settings.weight_decay
    on_gpu = groups[0]["params"][0].is_cuda
    match settings.optimizer:
        case "adamw":
            return AdamW(groups, weight_decay=decay, fused=True, capturable=on_gpu)
        case "adam":
            return Adam(groups, weight_decay=decay, fused=True, capturable=on_gpu)
        case "sgd":
            return SGD(groups, weight_decay=decay, momentum=0.9, fused=True)


def _scheduler(optimizer: Optimizer, schedule: LearningRateSchedule, total_steps: int) -> LRScheduler | None:
    after_warmup = max(1, total_steps - schedule.warmup_steps)
    main: LRScheduler | None
    match schedule.kind:
        case "constant":
            main = None
        case "cosine":
            main = CosineAnnealingLR(optimizer, T_max=after_warmup)
        case "step":
            main = StepLR(optimizer, step_size=schedule.step_size, gamma=schedule.gamma)
        case "one-cycle":
            # One more than the run has: torch counts one of total_steps before the first optimiser step.
            rates = [group["lr"] for group in optimizer.param_groups]
            return OneCycleLR(optimizer, max_lr=rates, total_steps=total_steps + 1)
    if not schedule.warmup_steps:
        return main
    warmup = LinearLR(optimizer, start_factor=1 / (schedule.warmup_steps + 1), total_iters=schedule.warmup_steps)
    return warmup if main is None else SequentialLR(optimizer, [warmup, main], milestones=[schedule.warmup_steps])


def _lengths(schedule: Any) -> list[int]:
    """How long the schedules within the state of one are, for those that depend on the length of the run."""
    if isinstance(schedule, dict):
        return [n for key, value in schedule.items() for n in ([value] if key in LENGTHS else _lengths(value))]
    return [n for each in schedule for n in _lengths(each)] if isinstance(schedule, list) else []


def _scaled(settings: Any, factor: float) -> Any:
    """State of optimiser and schedule as if every learning rate in it had been `factor` times as high."""
    if isinstance(settings, dict):
        return {
            name: _times(value, factor) if name in LEARNING_RATES else _scaled(value, factor)
            for name, value in settings.items()
        }
    return [_scaled(each, factor) for each in settings] if isinstance(settings, list) else settings


def _times(value: Any, factor: float) -> Any:
    return [each * factor for each in value] if isinstance(value, list) else value * factor


def _by_parameter(arrays: Arrays) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in to_tensors(arrays).items():
        index, dot, name = key.partition(".")
        if not dot or index.startswith(TRAINED):
            continue  # not the optimiser's: see `EmbeddingCopy.to_arrays` and `Optimisation.snapshot`
        state.setdefault(int(index), {})[name] = tensor
    return state
