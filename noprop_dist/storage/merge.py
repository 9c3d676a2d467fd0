"""One network from blocks that were trained in different runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from noprop_dist.config.bits import what_changes_bits
from noprop_dist.config.effect import leaves
from noprop_dist.config.layers import validated
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import UserError
from noprop_dist.records import RoundDone
from noprop_dist.stages import CLASSIFIER, Stage, block
from noprop_dist.storage.lock import Say
from noprop_dist.storage.manifest import Manifest, SnapshotEntry
from noprop_dist.storage.run_directory import RunDirectory

Chosen = tuple[RunDirectory, SnapshotEntry]
"""A snapshot, and the run that it is taken from."""


def merge_runs(out: RunDirectory, runs: Sequence[RunDirectory], say: Say = lambda _: None) -> list[str]:
    """Assemble the last checkpoints of several runs into a new run directory.

    Args:
        out: the new one.
        runs: each trained some of the blocks (`blocks.only`) of the same configuration.
        say: told what is waited for.

    Returns:
        Warnings.

    Raises:
        UserError: configurations or data disagree (says where), a block is missing, or is there twice and not the
            same, or `out` already holds a run.
    """
    out.check_unused(but_unfinished=True)
    configs = [run.config() for run in runs]
    _check_agreement(runs, [what_changes_bits(config) for config in configs])  # each has blocks.only of its own
    _check_agreement(runs, [dict(leaves(run.facts().to_json())) for run in runs])
    starts = [run.start() for run in runs]
    _check_agreement(runs, [{} if start is None else start.sha256 for start in starts])
    manifests = [run.checkpoints.manifest() for run in runs]
    _check_agreement(runs, [{"steps trained": manifest.step} for manifest in manifests])
    blocks = configs[0].blocks.count
    chosen, warnings = _choose(runs, manifests, blocks)
    steps = [config.evaluation.steps_per_block for config in configs]
    if len(set(steps)) > 1:
        told = ", ".join(f"{k} in {run}" for k, run in zip(steps, runs, strict=True))
        warnings.append(f"evaluation.steps_per_block is {told}; the first is taken, and accuracies depend on it")
    with out.only_writer(say), out.unfinished():
        out.create(_of_all_blocks(configs[0]), runs[0].facts(), starts[0])
        entries = [_copied(out, run, entry, blocks) for run, entry in chosen]
        out.append_metrics([record for run in runs for record in _rounds_of(run, chosen)])
        sources = {entry.name: str(run) for run, entry in chosen}
        out.checkpoints.complete(entries, blocks, merged_from=sources)
    return warnings


def _copied(out: RunDirectory, run: RunDirectory, entry: SnapshotEntry, blocks: int) -> SnapshotEntry:
    return out.checkpoints.save(run.checkpoints.load(entry), blocks, entry.trained_with)


def _of_all_blocks(config: RunConfig) -> RunConfig:
    values = config.model_dump(mode="json")
    values["blocks"]["only"] = None
    return validated(values)


def _check_agreement(runs: Sequence[RunDirectory], facts: Sequence[Mapping[str, Any]]) -> None:
    first = facts[0]
    for run, other in zip(runs[1:], facts[1:], strict=True):
        differing = [
            f"{key} is {first.get(key)!r} in {runs[0]} and {other.get(key)!r} in {run}"
            for key in sorted({*first, *other})
            if first.get(key) != other.get(key) and "" not in (first.get(key), other.get(key))  # "" is not known
        ]
        if differing:
            raise UserError(f"these runs cannot be merged: {'; '.join(differing)}")


def _choose(runs: Sequence[RunDirectory], manifests: Sequence[Manifest], blocks: int) -> tuple[list[Chosen], list[str]]:
    """The entry of every stage and the run that it is from; the classifier is every run's."""
    chosen: dict[Stage, Chosen] = {}
    warnings, twice = [], dict[tuple[str, str], list[str]]()
    for run, manifest in zip(runs, manifests, strict=True):
        for entry in manifest.stages:
            before, kept = chosen.setdefault(entry.stage, (run, entry))
            if kept.sha256 == entry.sha256:
                if before is not run and entry.stage.is_block:
                    twice.setdefault((str(before), str(run)), []).append(str(entry.stage.index))
                continue
            if entry.stage != CLASSIFIER:
                raise UserError(f"these runs cannot be merged: {entry.name} differs between {before} and {run}")
            warnings.append(f"the classifiers of {before} and {run} differ in bits; the former is taken")
    for (former, other), blocks_there in twice.items():
        numbers = ", ".join(blocks_there)
        warnings.append(f"{former} and {other} hold the same weights of block(s) {numbers}; the former's are taken")
    warnings += _other_sources(chosen)
    missing = [str(t) for t in range(1, blocks + 1) if block(t) not in chosen]
    if missing:
        raise UserError(f"these runs cannot be merged: block(s) {', '.join(missing)} are in none of them")
    return [chosen[stage] for stage in sorted(chosen)], warnings


def _other_sources(chosen: Mapping[Stage, Chosen]) -> list[str]:
    """A warning for each network of the users' own whose file was another in one run than in another."""
    first: dict[str, tuple[RunDirectory, str]] = {}
    warnings = []
    for run, entry in chosen.values():
        for path, sha256 in entry.trained_with.items():
            before, then = first.setdefault(path, (run, sha256))
            if ":" in path and then != sha256:
                warnings.append(
                    f"the file that defines {path} was another when {run} was trained than when {before} was: its "
                    f"fingerprint was {sha256[:16]} there and {then[:16]} here"
                )
    return list(dict.fromkeys(warnings))


def _rounds_of(run: RunDirectory, chosen: Sequence[Chosen]) -> list[RoundDone]:
    mine = {entry.stage for source, entry in chosen if source is run}
    return [record for record in run.metrics() if isinstance(record, RoundDone) and record.stage in mine]
