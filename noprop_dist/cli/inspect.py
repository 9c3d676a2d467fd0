"""`inspect`: what a run directory holds."""

import json
from dataclasses import fields
from typing import Any

from rich.table import Table

from noprop_dist import api
from noprop_dist.cli.options import warn
from noprop_dist.cli.terminal import FittingTable, Terminal
from noprop_dist.config.layers import to_yaml
from noprop_dist.records import Record, RoundDone
from noprop_dist.report.summary import LatestMetrics
from noprop_dist.stages import Stage
from noprop_dist.storage.checkpoints import Manifest, SnapshotEntry

console = Terminal()


def show_run(run_dir: str, as_json: bool) -> None:
    """Print configuration, steps, metrics and fingerprints."""
    run = api.inspect(run_dir)
    warn(run.warnings)
    config, manifest, metrics = run.config, run.manifest, run.latest
    if as_json:
        whole = {
            **_fingerprints(manifest),
            "config": config.model_dump(mode="json"),
            "metrics": _plain_metrics(metrics),
            "data": run.facts.to_json(),
            "software": dict(manifest.software),
        }
        print(json.dumps(whole))
        return
    console.print(to_yaml(config))
    console.print(_table(manifest, metrics))
    for each in metrics.evaluations:
        console.print(f"{each.split} ({each.sampler}): {each.accuracy:.2%} after {each.step} steps")


def _table(manifest: Manifest, metrics: LatestMetrics) -> Table:
    table = FittingTable(title=f"checkpoint of step {manifest.step}", title_justify="left")
    for column in ("", "step", "loss", "sha256 of the weights"):
        table.add_column(column)
    for entry in manifest.stages:
        last = metrics.stages.get(entry.stage)
        loss = f"{last.loss:.4g}" if isinstance(last, RoundDone) else ""
        table.add_row(entry.stage.name, str(entry.step), loss, entry.sha256)
    return table


def _fingerprints(manifest: Manifest) -> dict[str, Any]:
    """Step and fingerprint of every stage: `blocks` is a list, the others go by their names."""
    blocks = [{"block": entry.stage.index, **_fingerprint(entry)} for entry in manifest.stages if entry.stage.is_block]
    others = {entry.stage.name: _fingerprint(entry) for entry in manifest.stages if not entry.stage.is_block}
    return {"blocks": blocks, **others}


def _fingerprint(entry: SnapshotEntry) -> dict[str, Any]:
    return {"step": entry.step, "sha256": entry.sha256}


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
