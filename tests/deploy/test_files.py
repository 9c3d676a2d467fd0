"""What can be known of the deployment files without an engine, a cluster or a scheduler."""

import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from ray._private import ray_constants
from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS
from typer.testing import CliRunner

from noprop_dist import __version__
from noprop_dist.cli.app import app
from noprop_dist.config.layers import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = dict(line.split("==") for line in PINS)
SCRIPTS = [*sorted((ROOT / "launch").iterdir()), DEPLOY / "make-token", DEPLOY / "check-compose", DEPLOY / "ray-node"]


def test_every_ray_container_has_the_token_quick_health_checks_and_a_store_that_fits():
    for name in ("head", "worker", "worker-gpu", "train"):
        service = SERVICES[name]
        assert service["secrets"] == ["ray_token"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_health_check_period_ms"] == 1000
        assert service["shm_size"] == "${NOPROP_SHM:-2gb}"
        assert "results:/results" in service["volumes"]
    assert "--object-store-memory=${NOPROP_STORE_BYTES:-1000000000}" in SERVICES["head"]["command"]


def test_ray_finds_the_token_where_compose_puts_the_secret():
    (secret,) = COMPOSE["secrets"]
    assert SERVICES["head"]["environment"]["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret]["file"] == "./deploy/secrets/ray_token", "what make-token makes"


def test_the_image_has_the_tag_of_this_version():
    image = f"${{NOPROP_IMAGE:-noprop-dist}}:${{NOPROP_VERSION:-{__version__}}}"
    assert {SERVICES[name]["image"] for name in ("head", "worker", "worker-gpu", "train")} == {image}


def test_training_starts_once_rays_agent_says_that_the_head_is_alive():
    assert SERVICES["train"]["depends_on"]["head"] == {"condition": "service_healthy"}
    asked = re.findall(r"http://127.0.0.1:(\d+)(/\S+)\"", str(SERVICES["head"]["healthcheck"]["test"]))
    (agent_port, agent_path), (server_port, _) = asked
    assert int(agent_port) == ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    assert agent_path in PUBLIC_EXACT_PATHS, "it is answered without a token"
    assert f":{server_port}" in " ".join(SERVICES["train"]["command"])


def test_up_goes_on_with_the_run_of_that_name():
    train = SERVICES["train"]
    assert "train --or-resume" in train["command"][-1]
    assert train["environment"]["NOPROP_RUN"] == "${NOPROP_RUN:-digits}", "the same on every day"
    assert train["restart"].startswith("on-failure:")


def test_prometheus_asks_every_service_that_runs_ray():
    jobs = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    (asked,) = (config["dns_sd_configs"][0]["names"] for config in jobs if config["job_name"] == "ray")
    assert set(asked) == {name for name, service in SERVICES.items() if "ray-node" in str(service.get("command"))}


DYING_RAY = """#!/usr/bin/env -S {python} -W ignore
import logging, sys
from types import SimpleNamespace
from ray.scripts.scripts import _log_unexpected_subprocess_exit_details as log
print("options", *sys.argv[1:])
log([("raylet", SimpleNamespace(returncode=1))], "{logs}", logging.getLogger("exits"))
sys.exit(3)
"""
RAYLET_ERR = """[2026-11-26 19:01:27,692 C 27 27] (raylet) node_manager.cc:524: GCS returned an authentication error.
*** StackTrace Information ***
/ray/core/src/ray/raylet/raylet(+0xff770a) [0x560e5163770a] ray::operator<<()
[state-dump] - local objects map size: 4
[2026-11-26 19:01:27,000 I 27 27] (raylet) main.cc:1: a thing of no interest
"""


def test_a_node_shows_why_a_process_of_ray_died_and_not_its_native_stack(tmp_path):
    (tmp_path / "raylet.err").write_text(RAYLET_ERR)
    ray = tmp_path / "ray"
    ray.write_text(DYING_RAY.format(python=sys.executable, logs=tmp_path))
    ray.chmod(0o755)
    search = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [DEPLOY / "ray-node", "--head"]
    done = subprocess.run(command, env={**os.environ, **search}, capture_output=True, text=True, check=False)
    assert done.returncode == 3, "the container ends as Ray does"
    assert "options start --block" in done.stdout
    assert "GCS returned an authentication error" in done.stdout
    for noise in ("StackTrace", "raylet(+0x", "state-dump", "no interest"):
        assert noise not in done.stdout


def test_no_port_is_open_to_other_machines():
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_files_that_compose_mounts_are_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source


def test_settings_that_train_is_given_are_settings():
    settings = re.findall(r"--set (\S+)", " ".join(SERVICES["train"]["command"]))
    assert settings
    load_config("digits", None, settings)


def test_the_image_has_no_secrets_and_another_user_than_root():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert any(line.startswith("USER noprop") for line in lines)
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert not any("TOKEN" in line for line in lines)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*", "nothing gets into the image that is not named"
    assert not any("secret" in line for line in ignored[1:])


def test_a_token_is_made_once_and_is_long(tmp_path):
    script = tmp_path / "make-token"
    script.write_bytes((DEPLOY / "make-token").read_bytes())
    script.chmod(0o755)
    subprocess.run([script], check=True, capture_output=True)
    token = tmp_path / "secrets/ray_token"
    first = token.read_text()
    assert len(first) == 64
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    subprocess.run([script], check=True, capture_output=True)
    assert token.read_text() == first
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_executable_and_bash_understands_them(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_the_slurm_script_gives_options_that_train_has():
    help_text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    for option in re.findall(r"noprop-dist train (.*)\)", (ROOT / "launch/slurm.sbatch").read_text())[0].split():
        if option.startswith("--"):
            assert option in help_text


def test_pins_are_releases_that_everybody_gets():
    """No CPU or CUDA build, no index, no path of a machine; what only one build of torch needs is not pinned."""
    assert [line for line in PINS if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert [name for name in PINNED if name.startswith(("nvidia", "cuda", "triton"))] == []


def test_every_package_is_pinned_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    wanted = [each for each in map(Requirement, lines) if each.name != project["name"]]
    # `launch/versions pin` writes those that are not.
    assert [str(each) for each in wanted if not each.specifier.contains(PINNED.get(each.name.lower(), "0"))] == []


def test_the_layers_of_the_image_install_pins_and_what_the_project_needs(tmp_path):
    stage = (DEPLOY / "Dockerfile").read_text().split("\nFROM")[1]
    command = re.search(r"^RUN (.*?[^\\])\n", stage, re.MULTILINE | re.DOTALL)[1]
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["bash", "-c", command.replace("python", sys.executable)], cwd=tmp_path, check=True)
    names = [line.split("==")[0] for line in (tmp_path / "torch.txt").read_text().splitlines()]
    assert names == ["numpy", "pillow", "torch", "torchvision"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    assert (tmp_path / "packages.txt").read_text().split() == needed


def test_the_image_gets_every_file_that_it_copies():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    files = [name for line in copied for name in line.split()]
    assert "constraints.txt" in files
    assert [name for name in files if f"!{name}" not in (ROOT / ".dockerignore").read_text().splitlines()] == []
