"""Reads back what trackers have written: {name: {step: value}}, and a failure where a step is there twice."""

import json
import struct
from collections import defaultdict

from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.tracking.figures import figures_of


def once(triples):
    """(name, step, value) of everything that a tracker has."""
    values = defaultdict(dict)
    for name, step, value in triples:
        assert step not in values[name], f"{name} of step {step} is there twice"
        values[name][step] = value
    return dict(values)


def of_the_records(folder):
    """What metrics.jsonl has."""
    directory = RunDirectory(str(folder))
    blocks = directory.config().blocks.count
    figures = filter(None, (figures_of(record, blocks) for record in directory.metrics()))
    return once((name, each.step, value) for each in figures for name, value in each.values.items())


def in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tracking" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return once((name, each.step, each.value) for name in events.Tags()["scalars"] for each in events.Scalars(name))


def in_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"{(folder / 'tracking' / 'mlflow').as_uri()}")
    (run,) = client.search_runs([client.get_experiment_by_name("noprop_dist").experiment_id], max_results=1)
    history = client.get_metric_history
    return once((name, each.step, each.value) for name in run.data.metrics for each in history(run.info.run_id, name))


def in_wandb(folder):
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (folder / "tracking" / "wandb" / "wandb").glob("offline-run-*/run-*.wandb")
    records = map(Record.FromString, wandb_entries(file.read_bytes()))
    histories = [each.history.item for each in records if each.WhichOneof("record_type") == "history"]
    rows = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in each} for each in histories]
    return once(
        (name, row[steps[0]], value)
        for row in rows
        if (steps := [name for name in row if name.startswith("step/")])
        for name, value in row.items()
        if not name.startswith(("step/", "_"))
    )


def wandb_entries(content):
    """The entries of a .wandb file: seven bytes, then LevelDB's log format, blocks of 32 KiB with parts of entries."""
    assert content.startswith(b":W&B")
    at, entry = 7, b""
    while at + 7 <= len(content):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        entry += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""
