"""One network from blocks that were trained in different runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noprop_dist.config.bits import what_changes_bits
from noprop_dist.config.layers import validated
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import UserError
from noprop_dist.storage.checkpoint_files import Record
from noprop_dist.storage.run_directory import RunDirectory


def merge_runs(out: RunDirectory, runs: Sequence[RunDirectory]) -> list[str]:
    """Assemble the last checkpoints of several runs into a new run directory.

    Args:
        out: the new one.
        runs: each trained some of the blocks (`blocks.only`) of the same configuration.

    Returns:
        Warnings.

    Raises:
        UserError: configurations or data disagree (says where), a block is missing, or is there twice and not the
            same, or `out` already holds a run.
    """
    out.check_unused()
    configs = [run.config() for run in runs]
    _check_agreement(runs, [what_changes_bits(config) for config in configs])  # each has blocks.only of its own
    _check_agreement(runs, [dict(_flat(run.facts().to_json())) for run in runs])
    manifests = [run.checkpoints.manifest() for run in runs]
    _check_agreement(runs, [{"steps trained": manifest["step"]} for manifest in manifests])
    chosen, warnings = _choose(runs, manifests, configs[0].blocks.count)
    with out.only_writer():
        out.create(_of_all_blocks(configs[0]), runs[0].facts())
        entries = []
        for run, entry in chosen:
            snapshot = run.checkpoints.load(entry["step"], entry)
            entries.append(out.checkpoints.save(snapshot, entry["name"]))
        out.append_metrics([record for run in runs for record in _rounds_of(run, chosen)])
        sources = {entry["name"]: str(run) for run, entry in chosen}
        out.checkpoints.complete(manifests[0]["step"], entries, {"changes": [], "merged_from": sources})
    return warnings


def _of_all_blocks(config: RunConfig) -> RunConfig:
    values = config.model_dump(mode="json")
    values["blocks"]["only"] = None
    return validated(values)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_agreement(runs: Sequence[RunDirectory], facts: Sequence[Mapping[str, Any]]) -> None:
    first = facts[0]
    for run, other in zip(runs[1:], facts[1:], strict=True):
        differing = [
            f"{key} is {first.get(key)!r} in {runs[0]} and {other.get(key)!r} in {run}"
            for key in sorted({*first, *other})
            if first.get(key) != other.get(key)
        ]
        if differing:
            raise UserError(f"these runs cannot be merged: {'; '.join(differing)}")


def _choose(
    runs: Sequence[RunDirectory], manifests: Sequence[Record], blocks: int
) -> tuple[list[tuple[RunDirectory, Record]], list[str]]:
    """The entry of every stage and the run that it is from; the classifier is every run's."""
    chosen: dict[int, tuple[RunDirectory, Record]] = {}
    warnings = []
    for run, manifest in zip(runs, manifests, strict=True):
        for entry in manifest["stages"]:
            before, kept = chosen.setdefault(entry["stage"], (run, entry))
            if kept["sha256"] == entry["sha256"]:
                continue
            if entry["name"] != "classifier":
                raise UserError(f"these runs cannot be merged: {entry['name']} differs between {before} and {run}")
            warnings.append(f"the classifiers of {before} and {run} differ in bits; the former is taken")
    missing = [str(block) for block in range(1, blocks + 1) if block not in chosen]
    if missing:
        raise UserError(f"these runs cannot be merged: block(s) {', '.join(missing)} are in none of them")
    return [chosen[stage] for stage in sorted(chosen)], warnings


def _rounds_of(run: RunDirectory, chosen: Sequence[tuple[RunDirectory, Record]]) -> list[Record]:
    mine = {"classifier" if e["name"] == "classifier" else f"block {e['stage']}" for r, e in chosen if r is run}
    return [record for record in run.metrics() if record["kind"] == "round" and record["stage"] in mine]
