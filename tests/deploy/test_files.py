"""What can be known of the deployment files without an engine, a cluster or a scheduler."""

import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from typer.testing import CliRunner

from noprop_dist.cli.app import app
from noprop_dist.config.layers import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERAY = DEPLOY / "kuberay"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = dict(line.split("==") for line in PINS)
SCRIPTS = [*sorted((ROOT / "launch").iterdir()), DEPLOY / "make-token", DEPLOY / "check-compose"]


def documents(name):
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def settings_in(text):
    return re.findall(r"--set (\S+)", text)


def test_every_ray_container_has_the_token_quick_health_checks_and_a_store_that_fits():
    for name in ("head", "worker", "worker-gpu", "train"):
        service = SERVICES[name]
        assert service["secrets"] == ["ray_token"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_health_check_period_ms"] == 1000
        assert service["shm_size"] == "${NOPROP_SHM:-2gb}"
        assert "results:/results" in service["volumes"]
    assert "--object-store-memory=${NOPROP_STORE_BYTES:-1000000000}" in SERVICES["head"]["command"]


def test_no_port_is_open_to_other_machines():
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_files_that_compose_mounts_are_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), source


@pytest.mark.parametrize(
    "text", [" ".join(SERVICES["train"]["command"]), documents("rayjob.yaml")[0]["spec"]["entrypoint"]]
)
def test_settings_that_the_deployments_give_are_settings(text):
    assert settings_in(text)
    load_config("digits", None, settings_in(text.replace("=/results/data", "=.")))


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


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_the_head_has_no_gpu_and_the_gpu_group_scales(name):
    (document,) = documents(name)
    cluster = document["spec"].get("rayClusterSpec", document["spec"])
    head, (group,), (claim,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"], documents("storage.yaml")
    assert head["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in str(head)
    assert cluster["enableInTreeAutoscaling"]
    assert group["minReplicas"] < group["maxReplicas"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for pod in (head["template"], group["template"]):
        env = {each["name"]: each for each in pod["spec"]["containers"][0]["env"]}
        assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "noprop-ray-token"
        assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_both_kuberay_files_describe_the_same_cluster_of_the_ray_that_is_pinned():
    (cluster,), (job,) = documents("raycluster.yaml"), documents("rayjob.yaml")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert cluster["spec"]["rayVersion"] == PINNED["ray"]


def test_the_pod_monitor_scrapes_ports_that_the_pods_have():
    (monitor,), (cluster,) = documents("podmonitor.yaml"), documents("raycluster.yaml")
    wanted = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for pod in (cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"][0]):
        ports = {port["name"] for port in pod["template"]["spec"]["containers"][0]["ports"]}
        assert wanted <= ports
        labels = pod["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("name", "schema"), [("raycluster.yaml", "rayclusters"), ("rayjob.yaml", "rayjobs")])
def test_kuberay_accepts_the_files_by_its_published_schema(name, schema):
    """KUBERAY_CRDS is a folder with KubeRay's ray-operator/config/crd/bases, of any release."""
    folder = os.environ.get("KUBERAY_CRDS")
    if folder is None:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's CRDs")
    crd = yaml.safe_load((Path(folder) / f"ray.io_{schema}.yaml").read_text())
    served = {v["name"]: v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"]}
    for document in documents(name):
        jsonschema.validate(document, closed(served["v1"]))


def closed(schema):
    """The schema, in which a field that is not named is an error: the API server would drop it silently."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items() if key not in ("metadata", "x-kubernetes-validations")}
    if found.get("type") == "object" and "properties" in found and "additionalProperties" not in found:
        return {**found, "additionalProperties": False, "properties": {**found["properties"], "metadata": {}}}
    if found.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_executable_and_bash_understands_them(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_the_slurm_script_gives_options_that_train_has():
    help_text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    for option in re.findall(r"noprop-dist train (.*) &", (ROOT / "launch/slurm.sbatch").read_text())[0].split():
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


def test_the_image_gets_every_file_that_it_copies():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    files = [name for line in copied for name in line.split()]
    assert "constraints.txt" in files
    assert [name for name in files if f"!{name}" not in (ROOT / ".dockerignore").read_text().splitlines()] == []
