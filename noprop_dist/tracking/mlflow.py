"""MLflow: `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri RUN/tracking/mlflow`.

A folder of plain files and no database: SQLite needs seconds to make its tables, and locks that shared folders lack.
`mlflow migrate-filestore` brings it into one.
"""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noprop_dist.records import Record, RunEnded
from noprop_dist.tracking.callback import RunInfo
from noprop_dist.tracking.figures import figures_of, hyper_parameters
from noprop_dist.tracking.folders import check_no_link
from noprop_dist.tracking.tracker import Tracker, picture_files

BATCH, BATCH_SECONDS = 1000, 10.0
"""Metrics are sent so many at once, at the latest after so many seconds. MLflow takes 1000."""
PARAMETERS_AT_ONCE = 100
STATUS = {"stopped": "KILLED", "failed": "FAILED", "finished": "FINISHED"}


class MlflowCallback(Tracker):
    """Writes an MLflow run.

    A run that goes on continues its MLflow run, with all that people noted there. What that has of a figure already is
    not sent again, so there is one value for each record.

    Args:
        tracking_uri: of an MLflow server or database; None is a folder of the run's own, which needs neither.
        experiment: that the run belongs to.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "noprop_dist") -> None:
        self._uri, self._experiment = tracking_uri, experiment

    def on_start(self, run: RunInfo) -> None:
        self._run, self._batch = run, list[Any]()
        self._sent_at = time.monotonic()
        self._client = self._connect(run.folder / "mlflow")
        self._id, self._known = self._mlflow_run()
        for record in run.earlier:
            self._add(record)
        self._send()

    def on_end(self, record: RunEnded) -> None:
        self._send()
        try:
            # In a run directory that was moved, or came from somebody else, MLflow's files name another place.
            if self._client.get_run(self._id).info.artifact_uri.startswith(self._artifacts_in):
                self._add_pictures()
        finally:
            how = "failed" if record.error is not None else "stopped" if record.stopped else "finished"
            self._client.set_terminated(self._id, status=STATUS[how])

    def _add_pictures(self) -> None:
        for _, file in picture_files(self._run.pictures()):
            self._client.log_artifact(self._id, str(file))

    def _connect(self, folder: Path) -> Any:
        for setting in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
            os.environ.setdefault(setting, "true")
        from mlflow.tracking import MlflowClient

        self._artifacts_in = "" if self._uri else folder.as_uri()
        check_no_link(folder)
        return MlflowClient(tracking_uri=self._uri or folder.as_uri())

    def _mlflow_run(self) -> tuple[str, dict[str, set[int]]]:
        """The MLflow run of this run, and the steps that it has of each figure."""
        experiment = self._client.get_experiment_by_name(self._experiment)
        number = self._client.create_experiment(self._experiment) if experiment is None else experiment.experiment_id
        mine = f"tags.`noprop.directory` = '{self._tag}'"
        found = self._client.search_runs([number], mine) if self._run.earlier else []
        if not found:
            created = self._client.create_run(number, run_name=self._run.name, tags={"noprop.directory": self._tag})
            self._log_parameters(created.info.run_id)
            return created.info.run_id, {}
        run = found[0]
        self._client.update_run(run.info.run_id, status="RUNNING")
        history = self._client.get_metric_history
        return run.info.run_id, {
            name: {each.step for each in history(run.info.run_id, name)} for name in run.data.metrics
        }

    @property
    def _tag(self) -> str:
        return self._run.directory.replace("'", "_")

    def _log_parameters(self, run_id: str) -> None:
        from mlflow.entities import Param

        parameters = (Param(key, str(value)) for key, value in hyper_parameters(self._run.config).items())
        for part in _parts(parameters):
            self._client.log_batch(run_id, params=part)

    def _add(self, record: Record) -> None:
        from mlflow.entities import Metric

        figures = figures_of(record, self._run.config.blocks.count)
        if figures is None:
            return
        for name, value in figures.values.items():
            if figures.step not in self._known.get(name, ()):
                self._batch.append(Metric(name, value, int(1000 * figures.time), figures.step))
        if len(self._batch) >= BATCH or time.monotonic() - self._sent_at > BATCH_SECONDS:
            self._send()

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        self._sent_at = time.monotonic()
        while batch:
            self._client.log_batch(self._id, metrics=batch[:BATCH])
            batch = batch[BATCH:]


def _parts(parameters: Iterator[Any]) -> Iterator[list[Any]]:
    while part := list(itertools.islice(parameters, PARAMETERS_AT_ONCE)):
        yield part
