"""The Prometheus endpoint: scraped over HTTP as Prometheus would."""

import importlib
import json
import re
import socket
import time
import urllib.error
import urllib.request
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from noprop_dist import __version__
from noprop_dist.config.schema import MetricsSettings
from noprop_dist.errors import UserError
from noprop_dist.metrics import exporter as exporter_module
from noprop_dist.metrics.exporter import MetricsExporter
from noprop_dist.metrics.live import LiveStage
from noprop_dist.records import (
    EmbeddingUpdated,
    Evaluated,
    ObjectiveMeasured,
    RoundDone,
    SnapshotWritten,
    StageFailed,
    StageRecovered,
    WorkerLost,
    WorkerReady,
    from_line,
)
from noprop_dist.stages import CLASSIFIER, EMBEDDING, block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import prepare

ROOT = Path(__file__).parents[2]
RUN = ("run", "run-1")
BLOCK = (("block", "1"), RUN)
FIRST = block(1)


@pytest.fixture
def export(small_setup):
    """Makes exporters, and closes them."""
    exporters = []

    def make(run="run-1", setup=small_setup[0], **settings):
        settings = {"port": 0, **settings}
        exporters.append(MetricsExporter(run, setup.plan, MetricsSettings(**settings), "127.0.0.1"))
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


def round_done(first_step, stage=FIRST, steps=16):
    return RoundDone(
        stage=stage, first_step=first_step, steps=steps, step=first_step + steps, loss=0.5, error=0.25,
        gradient_norm=2.0, seconds=0.1, peak_memory_bytes=7, worker="block worker 1", queue_seconds=0.2,
    )  # fmt: skip


def ready(worker):
    return WorkerReady(worker=worker, incarnation=1, host="here", node_id="", pid=1, device="cpu")


def test_metrics_are_served_where_the_project_was_sent_and_not_installed(export, monkeypatch):
    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", not_installed)
    assert f'version="{__version__}"' in get(export())


def test_rounds_and_figures_that_are_written_down_can_be_scraped(export, small_setup):
    exporter = export()
    measured = {"step": 32, "final": False}
    for record in (
        round_done(0),
        round_done(16),
        round_done(0, stage=CLASSIFIER),
        Evaluated(**measured, split="test", accuracy=0.98, nearest_embedding_accuracy=0.97, sampler="mean", passes=1,
                  samples=100),
        ObjectiveMeasured(**measured, split="validation", cross_entropy=0.1, kl=0.2, squared_errors=(1, 2),
                          denoising_terms=(0.3, 0.4), denoising=0.7, objective=1, elbo=-1),
    ):  # fmt: skip
        exporter.record(record)
    found = scrape(exporter)
    assert found["noprop_block_steps_total", *BLOCK] == 32
    assert found["noprop_samples_total", *BLOCK] == 32 * small_setup[0].config.training.batch_size
    assert found["noprop_block_step_seconds_sum", *BLOCK] == pytest.approx(2 * 0.1 / 16)
    assert found["noprop_round_queue_seconds_count", *BLOCK] == 2
    assert found["noprop_denoising_squared_error", *BLOCK] == 0.25
    assert found["noprop_worker_peak_memory_bytes", RUN, ("worker", "block worker 1")] == 7
    assert found["noprop_loss", ("block", "classifier"), RUN] == 0.5
    assert ("noprop_denoising_squared_error", ("block", "classifier"), RUN) not in found
    assert found["noprop_accuracy_ratio", RUN, ("sampler", "mean"), ("split", "test")] == 0.98
    assert found["noprop_objective_nats", ("block", "2"), RUN, ("term", "denoising")] == 0.4
    assert found["noprop_objective_nats", ("block", ""), RUN, ("term", "elbo")] == -1


def test_a_learned_w_embed_is_shown_by_its_norm_and_distance_and_has_no_loss(export, small_config):
    setup, _ = prepare(small_config("embedding={kind: learned, dim: 20}"))
    exporter = export(setup=setup)
    assert scrape(exporter)["noprop_block_steps_total", ("block", "embedding"), RUN] == 0
    exporter.record(EmbeddingUpdated(first_step=0, steps=8, step=8, mean_norm=1.5, least_distance=0.25,
                                     gradient_norm=3.0, seconds=0.01, queue_seconds=0.3))  # fmt: skip
    exporter.record(SnapshotWritten(stage=EMBEDDING, step=8, bytes=1000, seconds=0.02))
    found = scrape(exporter)
    assert found["noprop_embedding_mean_norm", RUN] == 1.5
    assert found["noprop_embedding_least_distance", RUN] == 0.25
    shown = {name for name, *labels in found if ("block", "embedding") in labels}
    assert found["noprop_block_steps_total", ("block", "embedding"), RUN] == 8
    assert {"noprop_round_queue_seconds_sum", "noprop_snapshot_bytes_total"} < shown
    of_networks = ("noprop_loss", "noprop_gradient_norm", "noprop_samples_total", "noprop_block_step_seconds_count")
    assert not shown.intersection(of_networks)


def test_losses_snapshots_and_failures_are_counted_by_their_cause(export):
    exporter = export()
    for record in (
        ready("coordinator"),
        ready("coordinator"),
        WorkerLost(worker="block worker 1", incarnation=1, reason="hung", cause="it hung: no reply for 20 s"),
        StageRecovered(stage=block(1), worker="block worker 1", incarnation=2, seconds=4.0, step=16, replayed_steps=48),
        SnapshotWritten(stage=block(1), step=64, bytes=1000, seconds=0.02),
        StageFailed(stage=block(1), step=7, cause="NonFiniteError: the loss of step 7 is nan"),
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
    nothing_done = dict.fromkeys(setup.plan.stages, 0)
    log = RunLog(directory, nothing_done)
    log.add(round_done(0))
    log.add(round_done(16))
    log.flush()
    exporter = export()
    RunLog(directory, {**nothing_done, block(1): 16}, exporter.record)
    assert scrape(exporter)["noprop_block_steps_total", *BLOCK] == 16, "steps that are done again are not counted"


def test_states_and_lag_are_those_of_the_moment(export):
    exporter = export()
    stages = [LiveStage(block(1), "training", 64, 2, 1000), LiveStage(block(2), "recovering", 48, 0, 900)]
    exporter.show_live(lambda: stages)
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
    exporter.record(round_done(0))
    assert get(exporter, "/readyz") == "ok\n"
    monkeypatch.setattr(exporter_module, "HEALTHY_SECONDS", 0.2)
    time.sleep(0.2)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(exporter, "/healthz")
    exporter.loop_turned()
    assert get(exporter, "/healthz") == "ok\n"


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


def test_the_reference_has_every_metric_and_dashboard_and_rules_ask_for_no_other(export, monkeypatch):
    exporter = export()
    exporter.show_live(list)
    helped = {line.split()[2] for line in get(exporter).splitlines() if line.startswith("# HELP noprop_")}
    exported = {name for name in helped if not name.endswith("_created")}  # of the client library
    monkeypatch.syspath_prepend(ROOT / "docs/hooks")
    documented = set(re.findall(r"`(noprop_\w+)`", importlib.import_module("metrics_page").metrics()))
    asked_for = set()
    for file in [*(ROOT / "deploy/grafana/dashboards").glob("*.json"), *(ROOT / "deploy/prometheus/rules").glob("*")]:
        asked_for |= set(re.findall(r"\bnoprop_\w+(?=[{\[ )])", file.read_text()))
    parts = re.compile("_(sum|count|bucket)$")
    assert documented == exported
    assert {parts.sub("", name) for name in asked_for} <= exported


def test_a_worker_that_is_started_on_the_node_that_is_gone_is_counted_once(export):
    exporter, lost = export(), partial(WorkerLost, worker="block worker 1")
    for record in (
        ready("block worker 1"),
        lost(incarnation=1, cause="Socket closed"),
        lost(incarnation=2, cause="its node has died"),
        ready("block worker 1"),
    ):
        exporter.record(record)
    found = scrape(exporter)
    assert found["noprop_restarts_total", ("cause", "died"), RUN, ("worker", "block worker 1")] == 1
    exporter.record(lost(incarnation=3, cause="killed"))
    assert scrape(exporter)["noprop_restarts_total", ("cause", "died"), RUN, ("worker", "block worker 1")] == 2


def test_nothing_of_the_machine_is_shown(export, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret")
    text = get(export())
    assert "a-secret" not in text
    assert "/" not in "".join(line for line in text.splitlines() if not line.startswith("#"))


def test_records_of_a_run_from_before_losses_had_a_reason_can_be_taken_in(export):
    exporter = export()
    exporter.record(from_line('{"kind": "lost", "worker": "evaluator", "incarnation": 1, "cause": "killed"}'))
    assert scrape(exporter)["noprop_restarts_total", ("cause", "died"), RUN, ("worker", "evaluator")] == 1


def test_a_record_that_comes_twice_or_is_missing_miscounts_no_steps(export):
    exporter = export()
    for record in (round_done(0), round_done(0), round_done(32), round_done(16)):
        exporter.record(record)
    assert scrape(exporter)["noprop_block_steps_total", *BLOCK] == 48


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("localhost", "localhost"), ("::", "127.0.0.1")])
def test_the_endpoint_listens_on_names_and_on_ipv6(export, host, shown):
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    exporter = export(host=host)
    assert exporter.address.startswith(f"http://{shown}:")
    assert "noprop_run_info" in get(exporter)


def test_head_is_answered_without_a_body(export):
    with urllib.request.urlopen(urllib.request.Request(export().address, method="HEAD"), timeout=5) as answer:
        assert (answer.status, answer.read()) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 1000


def test_a_discovery_file_that_is_gone_or_locked_does_not_spoil_the_end(export, tmp_path, monkeypatch):
    exporter = export(discovery=str(tmp_path / "targets"))
    (file,) = (tmp_path / "targets").iterdir()
    file.unlink()
    exporter.close()


def test_the_discovery_folder_may_be_in_the_home(export, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    export(discovery="~/targets")
    assert list((tmp_path / "targets").iterdir())
