"""`inspect`: what a run directory holds."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from noprop_dist.config.layers import to_yaml
from noprop_dist.storage.checkpoint_files import Record
from noprop_dist.storage.run_directory import RunDirectory

console = Console(highlight=False, soft_wrap=True)


def show_run(run_dir: str, as_json: bool) -> None:
    """Print configuration, steps, metrics and fingerprints."""
    directory = RunDirectory(run_dir)
    config = directory.config()
    manifest = directory.checkpoints.manifest()
    metrics = latest_metrics(directory.metrics())
    blocks = [entry for entry in manifest["stages"] if entry["name"].startswith("block")]
    others = {entry["name"]: entry for entry in manifest["stages"] if entry not in blocks}
    if as_json:
        whole = {
            "blocks": [{"block": block["stage"], **_fingerprint(block)} for block in blocks],
            **{name: _fingerprint(entry) for name, entry in others.items()},
            "config": config.model_dump(mode="json"),
            "metrics": metrics,
            "data": directory.facts().to_json(),
            "software": manifest["software"],
        }
        print(json.dumps(whole))
        return
    console.print(to_yaml(config), markup=False)
    table = Table(title=f"checkpoint of step {manifest['step']}", title_justify="left")
    for column in ("", "step", "loss", "sha256 of the weights"):
        table.add_column(column)
    for stage in manifest["stages"]:
        name = stage["name"] if stage["name"] in others else f"block {stage['stage']}"
        loss = metrics["stages"].get(name, {}).get("loss")
        table.add_row(name, str(stage["step"]), "" if loss is None else f"{loss:.4g}", stage["sha256"])
    # A fingerprint is no use in pieces, even where the output is narrow.
    console.print(table, width=max(console.width, 100), crop=False)
    for record in metrics["evaluations"]:
        console.print(f"{record['split']} ({record['sampler']}): {record['accuracy']:.2%} after {record['step']} steps")


def latest_metrics(records: list[Record]) -> dict[str, Any]:
    """The last round of every stage, and the last checkpoint's evaluations and terms of Eq. 8."""
    measured = [record for record in records if record["kind"] in ("evaluation", "objective")]
    last = [record for record in measured if record["step"] == measured[-1]["step"]]
    return {
        "stages": {record["stage"]: record for record in records if record["kind"] == "round"},
        "evaluations": [record for record in last if record["kind"] == "evaluation"],
        "objective": next((record for record in last if record["kind"] == "objective"), None),
    }


def _fingerprint(entry: Record) -> Record:
    return {"step": entry["step"], "sha256": entry["sha256"]}
