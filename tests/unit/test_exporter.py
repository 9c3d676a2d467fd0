"""The Prometheus endpoint: scraped over HTTP as Prometheus would."""

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from noprop_dist.errors import UserError
from noprop_dist.inference.evaluation import Evaluation, ObjectiveTerms
from noprop_dist.metrics.exporter import MetricsExporter
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.progress import RoundReport


@pytest.fixture
def exporter():
    exporter = MetricsExporter("run-1", {1: "1", 2: "classifier"}, "127.0.0.1", 0)
    yield exporter
    exporter.close()


def scrape(exporter):
    text = urllib.request.urlopen(exporter.address, timeout=5).read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_rounds_and_accuracy_can_be_scraped(exporter):
    for first_step in (0, 16):
        exporter.round(RoundReport(1, first_step, 16, loss=0.5, error=0.25, gradient_norm=2.0, seconds=0.1))
    exporter.round(RoundReport(2, 0, 16, loss=0.7, error=0.7, gradient_norm=1.0, seconds=0.1))
    terms = ObjectiveTerms(
        cross_entropy=0.1,
        kl=0.2,
        squared_errors=(1, 2),
        denoising_terms=(0.3, 0.4),
        denoising=0.7,
        objective=1,
        elbo=-1,
    )
    evaluation = Evaluation(0.98, 0.97, "mean", 1, 100)
    exporter.evaluation(CheckpointEvaluation(32, False, (("test", evaluation),), terms))
    found = scrape(exporter)
    block = (("block", "1"), ("run", "run-1"))
    assert found["noprop_block_steps_total", *block] == 32
    assert found["noprop_block_step_seconds_total", *block] == pytest.approx(0.2)
    assert found["noprop_denoising_squared_error", *block] == 0.25
    assert found["noprop_loss", ("block", "classifier"), ("run", "run-1")] == 0.7
    assert found["noprop_accuracy_ratio", ("run", "run-1"), ("sampler", "mean"), ("split", "test")] == 0.98
    assert found["noprop_objective_nats", ("block", "2"), ("run", "run-1"), ("term", "denoising")] == 0.4
    assert found["noprop_objective_nats", ("block", ""), ("run", "run-1"), ("term", "elbo")] == -1
    assert ("noprop_denoising_squared_error", ("block", "classifier"), ("run", "run-1")) not in found


def test_a_taken_port_moves_to_a_free_one(exporter):
    port = int(exporter.address.rsplit(":", 1)[1].split("/")[0])
    second = MetricsExporter("run-2", {1: "1"}, "127.0.0.1", port)
    assert second.address != exporter.address
    assert scrape(second) == {}
    second.close()


def test_an_address_that_cannot_be_listened_on_is_refused():
    with pytest.raises(UserError, match="metrics.host=192.0.2.1: cannot be listened on"):
        MetricsExporter("run", {}, "192.0.2.1", 0)
