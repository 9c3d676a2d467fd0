"""The Prometheus endpoint: scraped over HTTP as Prometheus would."""

import json
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from noprop_dist.config.schema import MetricsSettings
from noprop_dist.errors import UserError
from noprop_dist.inference.evaluation import Evaluation, ObjectiveTerms
from noprop_dist.metrics import exporter as exporter_module
from noprop_dist.metrics.exporter import MetricsExporter
from noprop_dist.metrics.live import LiveStage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.run_log import RunLog

RUN = ("run", "run-1")
BLOCK = (("block", "1"), RUN)


@pytest.fixture
def export(small_setup):
    """Makes exporters, and closes them."""
    exporters = []

    def make(run="run-1", **settings):
        settings = {"port": 0, **settings}
        exporters.append(MetricsExporter(run, small_setup[0], MetricsSettings(**settings), "127.0.0.1"))
        return exporters[-1]

    yield make
    for exporter in exporters:
        exporter.close()


def get(exporter, path="/metrics"):
    with urllib.request.urlopen(exporter.address.replace("/metrics", path), timeout=5) as answer:
        return answer.read().decode()


def scrape(exporter):
    families = text_string_to_metric_families(get(exporter))
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def report(first_step, stage=1, steps=16):
    return RoundReport(
        stage, first_step, steps, loss=0.5, error=0.25, gradient_norm=2.0, seconds=0.1, peak_memory_bytes=7
    )


def test_rounds_and_figures_that_are_written_down_can_be_scraped(export, small_setup, tmp_path):
    exporter, (setup, _) = export(), small_setup
    log = RunLog(setup, RunDirectory(str(tmp_path)), dict.fromkeys(setup.stages, 0), exporter.record)
    for first_step in (0, 16):
        log.round(report(first_step), worker="block worker 1", queue_seconds=0.2)
    log.round(report(0, stage=setup.classifier_stage))
    nothing = {"squared_errors": (1, 2), "denoising": 0.7, "objective": 1}
    terms = ObjectiveTerms(cross_entropy=0.1, kl=0.2, denoising_terms=(0.3, 0.4), elbo=-1, **nothing)
    evaluation = Evaluation(0.98, 0.97, "mean", 1, 100)
    log.evaluation(CheckpointEvaluation(32, False, (("test", evaluation),), terms))
    found = scrape(exporter)
    assert found["noprop_block_steps_total", *BLOCK] == 32
    assert found["noprop_samples_total", *BLOCK] == 32 * setup.config.training.batch_size
    assert found["noprop_block_step_seconds_sum", *BLOCK] == pytest.approx(2 * 0.1 / 16)
    assert found["noprop_round_queue_seconds_count", *BLOCK] == 2
    assert found["noprop_denoising_squared_error", *BLOCK] == 0.25
    assert found["noprop_worker_peak_memory_bytes", RUN, ("worker", "block worker 1")] == 7
    assert found["noprop_loss", ("block", "classifier"), RUN] == 0.5
    assert ("noprop_denoising_squared_error", ("block", "classifier"), RUN) not in found
    assert found["noprop_accuracy_ratio", RUN, ("sampler", "mean"), ("split", "test")] == 0.98
    assert found["noprop_objective_nats", ("block", "2"), RUN, ("term", "denoising")] == 0.4
    assert found["noprop_objective_nats", ("block", ""), RUN, ("term", "elbo")] == -1


def test_losses_snapshots_and_failures_are_counted_by_their_cause(export):
    exporter = export()
    for record in (
        {"kind": "worker", "worker": "coordinator"},
        {"kind": "worker", "worker": "coordinator"},
        {"kind": "lost", "worker": "block worker 1", "reason": "hung", "cause": "it hung: no reply for 20 s"},
        {"kind": "recovery", "stage": "block 1", "seconds": 4.0, "replayed_steps": 48},
        {"kind": "snapshot", "stage": "block 1", "bytes": 1000, "seconds": 0.02},
        {"kind": "failure", "stage": "block 1", "cause": "NonFiniteError: the loss of step 7 is nan"},
    ):
        exporter.record(record)
    found = scrape(exporter)
    assert found["noprop_restarts_total", ("cause", "hung"), RUN, ("worker", "block worker 1")] == 1
    assert found["noprop_restarts_total", ("cause", "resumed"), RUN, ("worker", "coordinator")] == 1
    assert found["noprop_recovery_seconds_sum", *BLOCK] == 4
    assert found["noprop_replayed_steps_total", *BLOCK] == 48
    assert found["noprop_snapshot_bytes_total", *BLOCK] == 1000
    assert found["noprop_failures_total", BLOCK[0], ("cause", "NonFiniteError"), RUN] == 1


def test_a_resumed_run_goes_on_counting_where_it_stood(export, small_setup, tmp_path):
    (setup, _), directory = small_setup, RunDirectory(str(tmp_path))
    nothing_done = dict.fromkeys(setup.stages, 0)
    log = RunLog(setup, directory, nothing_done)
    log.round(report(0))
    log.round(report(16))
    log.flush()
    exporter = export()
    RunLog(setup, directory, {**nothing_done, 1: 16}, exporter.record)
    assert scrape(exporter)["noprop_block_steps_total", *BLOCK] == 16, "steps that are done again are not counted"


def test_states_and_lag_are_those_of_the_moment(export):
    exporter = export()
    stages = [LiveStage("1", "training", 64, 2, 1000), LiveStage("2", "recovering", 48, 0, 900)]
    exporter.watch(lambda: stages)
    found = scrape(exporter)
    assert found["noprop_block_state", ("block", "2"), RUN, ("state", "recovering")] == 1
    assert found["noprop_block_state", ("block", "2"), RUN, ("state", "training")] == 0
    assert found["noprop_block_lag_steps", ("block", "2"), RUN] == 16
    assert found["noprop_rounds_in_flight", *BLOCK] == 2
    assert found["noprop_sent_bytes_total", *BLOCK] == 1000


def test_it_is_ready_once_it_trains_and_healthy_while_its_loop_turns(export, monkeypatch):
    exporter = export()
    assert get(exporter, "/healthz") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(exporter, "/readyz")
    exporter.record({"kind": "round", "stage": "block 1", "steps": 1, "seconds": 1, "loss": 0, "error": 0,
                     "gradient_norm": 0})  # fmt: skip
    assert get(exporter, "/readyz") == "ok\n"
    monkeypatch.setattr(exporter_module, "HEALTHY_SECONDS", 0.0)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(exporter, "/healthz")


def test_a_taken_port_moves_to_a_free_one_and_prometheus_is_told(export, tmp_path):
    first = export()
    port = int(first.address.rsplit(":", 1)[1].split("/")[0])
    second = export("run 2", port=port, discovery=str(tmp_path / "targets"))
    assert second.address != first.address
    (file,) = (tmp_path / "targets").iterdir()
    assert file.name == "noprop-run_2.json"
    (group,) = json.loads(file.read_text())
    assert f"http://{group['targets'][0]}/metrics" == second.address
    second.close()
    assert not file.exists()


def test_an_address_that_cannot_be_listened_on_is_refused(export):
    with pytest.raises(UserError, match="metrics.host=192.0.2.1: cannot be listened on"):
        export(host="192.0.2.1")


def test_a_discovery_folder_that_cannot_be_written_is_refused(export, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="metrics.discovery=.*: cannot be written"):
        export(discovery=str(tmp_path / "file"))


def test_nothing_of_the_machine_is_shown(export, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret")
    text = get(export())
    assert "a-secret" not in text
    assert "/" not in "".join(line for line in text.splitlines() if not line.startswith("#"))


def test_records_of_a_run_from_before_losses_had_a_reason_can_be_taken_in(export):
    exporter = export()
    exporter.record({"kind": "lost", "worker": "evaluator", "cause": "its process was killed"})
    assert scrape(exporter)["noprop_restarts_total", ("cause", "died"), RUN, ("worker", "evaluator")] == 1
