"""The figures that runs are compared by: how good each is, and what it took.

They are read and not measured: from settings, records, the entries of the last checkpoint, and one file of weights for
each kind of network. No network is built, so nothing that a run names is imported.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from noprop_dist.config.bits import every_setting
from noprop_dist.config.effect import is_idle
from noprop_dist.errors import UserError
from noprop_dist.inference.score import last_step_of
from noprop_dist.records import EmbeddingUpdated, Evaluated, Record, RoundDone, WorkerReady, damage_told
from noprop_dist.reporting.summary import busy_seconds, busy_seconds_to, latest_metrics, of_kind
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import EMBEDDING, NETWORK, Stage
from noprop_dist.storage.checkpoints import Checkpoints
from noprop_dist.storage.manifest import SnapshotEntry
from noprop_dist.storage.run_directory import RunDirectory

NOT_COMPARED = re.compile(r"seed|method|tracking|metrics\..*|engine\.address|data\.(root|download|columns)")
"""Settings with figures of their own, and those that only say where a run and its data are."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What normalisation layers keep beside their parameters."""
FILE_OF = "file of "
"""Before the import path of a network of the user's own: key of its file's fingerprint."""
PRINT_LENGTH = 12
"""Characters of a fingerprint: enough to tell a few apart."""


@dataclass(frozen=True)
class CurvePoint:
    """A checkpoint that was measured on the way.

    Attributes:
        step: of every block.
        epochs: of the training set until then; None where that has less than a batch.
        training_seconds: until every stage had reached the step, counted as in `RunFigures`; None if not recorded.
        test_accuracy: mean sampler, a fraction.
    """

    step: int
    epochs: float | None
    training_seconds: float | None
    test_accuracy: float


@dataclass(frozen=True)
class RunFigures:
    """What a run came to, and what it took. A figure that is None was not measured, or is not there yet.

    Accuracies and ELBO are those of the last checkpoint that was measured: at the end of a run on the whole test set,
    before that on a sample.

    Attributes:
        name: the last folder of its path, and as many above it as tell it from the others.
        path: what names it in a command; never a secret.
        method: noprop or backprop.
        seed: of everything that is drawn at random.
        settings: those that have an effect, without seed, method, and where the run and its data are: dotted key →
            plain value. With them go fingerprints of the samples and of the files of networks of the user's own.
        blocks: T.
        steps: that every stage has done.
        total_steps: that it is to do; a run that ended early has done fewer.
        finished: whether it is at its end.
        epochs: of the training set.
        block_steps: sum over the blocks of their steps; a step of the baseline is one of all T.
        test_accuracy: mean sampler, a fraction.
        test_accuracy_stochastic: stochastic sampler, one pass, a fraction.
        test_samples: that were classified.
        test_set: samples of the whole test set.
        validation_accuracy: mean sampler, a fraction.
        validation_samples: that were classified.
        validation_set: samples of the whole validation set.
        elbo: nats per sample of the validation set; the baseline has none.
        evaluated_step: of that checkpoint.
        training_seconds: by the clock, while any stage was at work; None where no round is recorded.
        block_steps_per_second: of training.
        peak_memory_bytes: of the process that took most, of a GPU's memory or else of the machine's.
        block_parameters: of the largest block.
        parameters: of all stages that were trained; None while there is no snapshot of each.
        device: that trained it, "cpu" or "cuda".
        processors: names of GPUs, or a CPU's architecture and instructions.
        curve: test accuracy at checkpoints, by their steps.
    """

    name: str
    path: str
    method: Literal["noprop", "backprop"]
    seed: int
    settings: Mapping[str, Any]
    blocks: int
    steps: int
    total_steps: int
    finished: bool
    epochs: float | None
    block_steps: int
    test_accuracy: float | None
    test_accuracy_stochastic: float | None
    test_samples: int | None
    test_set: int
    validation_accuracy: float | None
    validation_samples: int | None
    validation_set: int
    elbo: float | None
    evaluated_step: int | None
    training_seconds: float | None
    block_steps_per_second: float | None
    peak_memory_bytes: int | None
    block_parameters: int | None
    parameters: int | None
    device: str | None
    processors: tuple[str, ...]
    curve: tuple[CurvePoint, ...]


def read_figures(directory: RunDirectory, name: str = "") -> tuple[RunFigures, tuple[str, ...]]:
    """The figures of a run, finished or not, and warnings of what is damaged.

    Args:
        directory: of the run.
        name: for people.

    Raises:
        UserError: there is no run, or its configuration or the facts of its data are damaged.
    """
    plan, records = RunPlan(directory.config(), directory.facts()), directory.metrics()
    warnings = damage_told(records, directory)
    complete = directory.checkpoints.steps()
    finished = bool(complete) and complete[-1] >= last_step_of(plan, directory, records)
    done = _steps_done(plan, records, complete[-1] if complete else 0)
    steps = complete[-1] if finished else min(done.values())
    entries = _entries(directory.checkpoints, complete, warnings)
    figures = RunFigures(
        name=name,
        path=directory.link,
        method=plan.config.method,
        seed=plan.config.seed,
        settings=_settings(plan, entries),
        blocks=plan.config.blocks.count,
        steps=steps,
        total_steps=plan.total_steps,
        finished=finished,
        epochs=_epochs(plan, steps),
        **_accuracies(plan, records),
        **_costs(records, _block_steps(plan, done)),
        **_sizes(plan, directory.checkpoints, entries, warnings),
        **_devices(records, entries),
        curve=tuple(_curve(plan, records)),
    )
    return figures, tuple(warnings)


def _accuracies(plan: RunPlan, records: Sequence[Record]) -> dict[str, Any]:
    latest = latest_metrics(records)
    measured = {(each.split, each.sampler): each for each in latest.evaluations}
    test, validation = measured.get(("test", "mean")), measured.get(("validation", "mean"))
    stochastic = measured.get(("test", "stochastic"))
    return {
        "test_accuracy": test and test.accuracy,
        "test_accuracy_stochastic": stochastic and stochastic.accuracy,
        "test_samples": test and test.samples,
        "test_set": plan.facts.samples["test"],
        "validation_accuracy": validation and validation.accuracy,
        "validation_samples": validation and validation.samples,
        "validation_set": plan.facts.samples["validation"],
        "elbo": latest.objective and latest.objective.elbo,
        "evaluated_step": next((each.step for each in latest.evaluations), None),
    }


def _costs(records: Sequence[Record], block_steps: int) -> dict[str, Any]:
    rounds = of_kind(records, RoundDone)
    seconds = busy_seconds(rounds)
    return {
        "block_steps": block_steps,
        "training_seconds": seconds or None,
        "block_steps_per_second": block_steps / seconds if seconds > 0 else None,
        "peak_memory_bytes": max((each.peak_memory_bytes for each in rounds), default=0) or None,
    }


def _devices(records: Sequence[Record], entries: Sequence[SnapshotEntry]) -> dict[str, Any]:
    device = next((entry.trained_with["device"] for entry in entries if "device" in entry.trained_with), None)
    ready = (each for each in of_kind(records, WorkerReady) if each.device.partition(":")[0] == device)
    return {"device": device, "processors": tuple(sorted({each.processor for each in ready if each.processor}))}


def _steps_done(plan: RunPlan, records: Sequence[Record], saved: int) -> dict[Stage, int]:
    """Steps that each stage has done: those of its last round, or those that are saved where lines are missing."""
    done = dict.fromkeys(plan.stages, saved)
    for record in records:
        if isinstance(record, RoundDone | EmbeddingUpdated):
            stage = record.stage if isinstance(record, RoundDone) else EMBEDDING
            done[stage] = max(done.get(stage, 0), record.step)
    return {stage: done[stage] for stage in plan.stages}


def _block_steps(plan: RunPlan, done: Mapping[Stage, int]) -> int:
    if plan.end_to_end:
        return plan.config.blocks.count * done[NETWORK]
    return sum(steps for stage, steps in done.items() if stage.is_block)


def _epochs(plan: RunPlan, steps: int) -> float | None:
    return steps / plan.steps_per_epoch if plan.steps_per_epoch else None


def _entries(checkpoints: Checkpoints, complete: Sequence[int], warnings: list[str]) -> tuple[SnapshotEntry, ...]:
    """Of the last checkpoint, or of every stage's newest snapshot where none is whole. None where one is damaged."""
    try:
        if complete:
            return checkpoints.manifest(complete[-1]).stages
        return tuple(checkpoints.entry(steps[-1], name) for name, steps in checkpoints.saved_steps().items())
    except UserError as error:
        warnings.append(str(error))
        return ()


def _sizes(
    plan: RunPlan, checkpoints: Checkpoints, entries: Sequence[SnapshotEntry], warnings: list[str]
) -> dict[str, Any]:
    """Blocks of the same network are counted once: there may be thousands."""
    networks = plan.config.blocks
    counted: list[tuple[object, tuple[int, int]]] = []
    counts: dict[Stage, tuple[int, int]] = {}
    for entry in entries:
        kind = networks.network_of(entry.stage.index) if entry.stage.is_block else entry.stage
        known = next((count for each, count in counted if each == kind), None)
        try:
            counts[entry.stage] = known or _count(plan, checkpoints, entry)
        except UserError as error:
            warnings.append(str(error))
            break
        if known is None:
            counted.append((kind, counts[entry.stage]))
    is_whole = counts.keys() >= {*plan.stages}
    return {
        "block_parameters": max((block for block, _ in counts.values()), default=0) or None,
        "parameters": sum(whole for _, whole in counts.values()) if is_whole else None,
    }


def _count(plan: RunPlan, checkpoints: Checkpoints, entry: SnapshotEntry) -> tuple[int, int]:
    """Parameters of the largest block in a stage's weights, 0 if there is none, and of all of it."""
    fixed = ("embedding",) if plan.end_to_end and not plan.config.embedding.is_learned else ()
    sizes = {
        name: array.size
        for name, array in checkpoints.load_weights(entry).weights.items()
        if name.rpartition(".")[2] not in STATISTICS and name not in fixed
    }
    whole = sum(sizes.values())
    if entry.stage != NETWORK:
        return whole if entry.stage.is_block else 0, whole
    blocks: dict[str, int] = {}
    for name, size in sizes.items():
        if name.startswith("blocks."):
            block = name.split(".")[1]
            blocks[block] = blocks.get(block, 0) + size
    return max(blocks.values(), default=0), whole


def _settings(plan: RunPlan, entries: Sequence[SnapshotEntry]) -> dict[str, Any]:
    """See `RunFigures.settings`."""
    config, facts = plan.config, plan.facts
    settings = {
        key: value
        for key, value in every_setting(config).items()
        if not NOT_COMPARED.fullmatch(key) and not is_idle(config, key)
    }
    prints = {
        "samples.sha256": facts.sha256,
        "samples.test_sha256": facts.test_sha256,
        "samples.validation_sha256": facts.validation_sha256,
    }
    for entry in entries:
        prints |= {f"{FILE_OF}{path}": sha256 for path, sha256 in entry.trained_with.items() if ":" in path}
    return settings | {key: value[:PRINT_LENGTH] for key, value in prints.items() if value}


def _curve(plan: RunPlan, records: Sequence[Record]) -> Iterator[CurvePoint]:
    tests = (each for each in of_kind(records, Evaluated) if (each.split, each.sampler) == ("test", "mean"))
    accuracies = {each.step: each.accuracy for each in tests}
    seconds = busy_seconds_to(accuracies, of_kind(records, RoundDone))
    for step, accuracy in sorted(accuracies.items()):
        yield CurvePoint(step, _epochs(plan, step), seconds.get(step), accuracy)
