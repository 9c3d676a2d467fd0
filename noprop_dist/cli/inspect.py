"""`inspect`: what a run directory holds."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rich.table import Table

from noprop_dist import api
from noprop_dist.api.types import LatestMetrics, Manifest, Record, RoundDone, SnapshotEntry, Stage
from noprop_dist.cli.options import warn
from noprop_dist.cli.terminal import FittingTable, Terminal
from noprop_dist.config.layers import to_yaml
from noprop_dist.printable import without_secrets

console = Terminal()
Snapshots = Mapping[Stage, SnapshotEntry | None]


def show_run(run_dir: str, as_json: bool) -> None:
    """Print configuration, steps, metrics and fingerprints, of the newest snapshots where no checkpoint is whole."""
    run = api.inspect(run_dir)
    warn(run.warnings)
    if as_json:
        print(without_secrets(json.dumps(_plain_run(run))))
        return
    console.print(to_yaml(run.config))
    _print_snapshots(run)
    for each in run.latest.evaluations:
        console.print(f"{each.split} ({each.sampler}): {each.accuracy:.2%} after {each.step} steps")


def _print_snapshots(run: api.RunContents) -> None:
    """Print the last checkpoint, and the newest snapshots where they are newer."""
    step = None if run.manifest is None else run.manifest.step
    if run.manifest is not None:
        console.print(_table(f"checkpoint of step {step}", _of_checkpoint(run.manifest), run.latest))
    if any(entry is not None and entry.step != step for entry in run.newest.values()) or run.manifest is None:
        title = "newest snapshots, from which `noprop-dist resume` continues"
        console.print(_table(f"no whole checkpoint yet; {title}" if step is None else title, run.newest, run.latest))


def _table(title: str, entries: Snapshots, metrics: LatestMetrics) -> Table:
    table = FittingTable(title=title, title_justify="left")
    for column in ("", "step", "loss", "sha256 of the weights"):
        table.add_column(column)
    for stage, entry in entries.items():
        last = metrics.stages.get(stage)
        loss = f"{last.loss:.4g}" if isinstance(last, RoundDone) else ""
        table.add_row(
            stage.name, *(("0", loss, "none yet") if entry is None else (str(entry.step), loss, entry.sha256))
        )
    return table


def _plain_run(run: api.RunContents) -> dict[str, Any]:
    """As JSON has it. Without a whole checkpoint, steps and fingerprints are those of the newest snapshots."""
    manifest = run.manifest
    return {
        "checkpoint": None if manifest is None else manifest.step,
        **_fingerprints(run.newest if manifest is None else _of_checkpoint(manifest)),
        "newest_snapshots": {stage.name: 0 if entry is None else entry.step for stage, entry in run.newest.items()},
        "config": run.config.model_dump(mode="json"),
        "metrics": _plain_metrics(run.latest),
        "data": run.facts.to_json(),
        "software": {} if manifest is None else dict(manifest.software),
    }


def _of_checkpoint(manifest: Manifest) -> Snapshots:
    return {entry.stage: entry for entry in manifest.stages}


def _fingerprints(entries: Snapshots) -> dict[str, Any]:
    """Step and fingerprint of every stage: `blocks` is a list, the others go by their names."""
    prints = {
        stage: {"step": 0, "sha256": None} if entry is None else {"step": entry.step, "sha256": entry.sha256}
        for stage, entry in entries.items()
    }
    blocks = [{"block": stage.index, **print_} for stage, print_ in prints.items() if stage.is_block]
    return {"blocks": blocks, **{stage.name: print_ for stage, print_ in prints.items() if not stage.is_block}}


def _plain_metrics(metrics: LatestMetrics) -> dict[str, Any]:
    return {
        "stages": {stage.name: {**_plain(record), "stage": stage.name} for stage, record in metrics.stages.items()},
        "evaluations": [_plain(record) for record in metrics.evaluations],
        "objective": None if metrics.objective is None else _plain(metrics.objective),
    }


def _plain(record: Record) -> dict[str, Any]:
    """A record as JSON has it, stages by their names; what was not measured is left out."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    plain = {name: value.name if isinstance(value, Stage) else value for name, value in values.items()}
    return {"kind": record.KIND, **{name: value for name, value in plain.items() if value is not None}}
