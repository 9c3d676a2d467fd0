"""A real Prometheus scrapes a real run: rules, alerts and every expression of the dashboard."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from noprop_dist.engines.ray.loopback import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)


def promtool(*words, stdin=None):
    done = subprocess.run(["promtool", *map(str, words)], input=stdin, capture_output=True, text=True, check=False,
                          timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def dashboard_expressions():
    """Of every panel and annotation, for one run and one block."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/noprop.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    for each in [*targets, *dashboard["annotations"]["list"]]:
        yield each["expr"]


def rules():
    for file in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


@needs_prometheus
def test_configuration_and_rules_are_what_promtool_wants():
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", *(PROMETHEUS / "rules").glob("*.yml"))


@needs_prometheus
def test_every_alert_fires_and_stays_silent_when_it_should():
    promtool("test", "rules", *(PROMETHEUS / "tests").glob("*.yml"))
    tested = (PROMETHEUS / "tests/alerts_test.yml").read_text()
    for rule in rules():
        name = rule.get("alert") or rule["record"]
        assert name in tested or "p95" in name, f"{name} has no test"


@pytest.fixture(scope="module")
def scraped(ray_here, tmp_path_factory):
    """A query to a Prometheus that scrapes a run which goes on meanwhile."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / "rules/*.yml")]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] == "noprop"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "targets").mkdir()
    port = free_port()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
        )  # fmt: skip
        run = subprocess.Popen(
            ["noprop-dist", "train", "--run-dir", str(folder / "run-1"), "--set", "training.max_steps=6000",
             "--set", "blocks.count=2", "--set", "checkpoint.every_steps=128", "--set", "metrics.port=0",
             "--set", "embedding={kind: learned, dim: 20}", "--set", f"metrics.discovery={folder}/targets"],
            stdout=log, stderr=log,
        )  # fmt: skip

    def query(expression):
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.loads(answer.read())["data"]["result"]

    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline, (folder / "log").read_text()[-4000:]
        try:
            if query("noprop_accuracy_ratio") and query("noprop:block_step_seconds:mean5m"):
                break
        except OSError:
            pass
        time.sleep(0.5)
    yield query
    for process in (run, server):
        process.terminate()
        process.wait(timeout=60)
    assert not list((folder / "targets").iterdir()), "a run that has ended is not scraped any more"


@needs_prometheus
@pytest.mark.slow
def test_every_expression_of_dashboard_and_rules_returns_data_during_a_run(scraped):
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    for expression in [*dashboard_expressions(), *recorded]:
        asked = expression.replace("$run", "run-1").replace("$block", "1").removesuffix("> 0")
        assert scraped(asked), expression
    for rule in rules():
        for metric in re.findall(r"\b(?:noprop_\w+|noprop:[\w:]+|up)\b(?=[{\[\s)])", rule["expr"]):
            assert scraped(metric), f"{metric} of {rule} is not there"


@needs_prometheus
@pytest.mark.slow
def test_the_endpoint_is_what_promtool_wants_of_metrics(scraped):
    (target,) = {sample["metric"]["instance"] for sample in scraped('up{job="noprop"}')}
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
        assert not promtool("check", "metrics", stdin=answer.read().decode())


@needs_prometheus
@pytest.mark.slow
def test_no_alert_fires_for_a_run_that_is_well(scraped):
    assert not scraped('ALERTS{alertstate="firing"}')
