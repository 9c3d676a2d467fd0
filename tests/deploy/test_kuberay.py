"""KubeRay's manifests without a Kubernetes: their schema, and what becomes of them in KubeRay's and Ray's hands."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.scripts.scripts import cli, start

from noprop_dist import __version__
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray import cluster

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
(CLUSTER,) = yaml.safe_load_all((KUBERAY / "raycluster.yaml").read_text())
(JOB,) = yaml.safe_load_all((KUBERAY / "rayjob.yaml").read_text())
(MONITOR,) = yaml.safe_load_all((KUBERAY / "podmonitor.yaml").read_text())
(CLAIM,) = yaml.safe_load_all((KUBERAY / "storage.yaml").read_text())
HEAD, (GPU,) = CLUSTER["spec"]["headGroupSpec"], CLUSTER["spec"]["workerGroupSpecs"]
SUBMITTER = JOB["spec"]["submitterPodTemplate"]
GROUPS = pytest.mark.parametrize("group", [HEAD, GPU], ids=["head", "gpu"])
GIB = 2**30


def pod(group):
    return group["template"]["spec"]


def container(group):
    (found,) = pod(group)["containers"]
    return found


def limit(group, resource):
    return int(parse_quantity(container(group)["resources"]["limits"].get(resource, "0")))


def start_line(group):
    """The options of `ray start` as KubeRay puts them together (`generateRayStartCommand` of its pod.go)."""
    given = dict(group["rayStartParams"]) | {"block": "true", "dashboard-agent-listen-port": "52365"}
    given.setdefault("metrics-export-port", "8080")
    if group is HEAD:
        given |= {"no-monitor": "true", "dashboard-host": "0.0.0.0"}
    else:
        given.setdefault("address", "noprop-head-svc.default.svc.cluster.local:6379")
    for name, resource in (("num-cpus", "cpu"), ("memory", "memory"), ("num-gpus", "nvidia.com/gpu")):
        if limit(group, resource):
            given.setdefault(name, str(limit(group, resource)))
    flags = (f"--{name}" if value == "true" else f"--{name}={value}" for name, value in sorted(given.items()))
    return " ".join([*(["--head"] if group is HEAD else []), *flags])


def start_options(group):
    """What Ray's own parser makes of them, after the shell."""
    command = ["bash", "-c", f"printf '%s\\0' {start_line(group)}"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return start.make_context("ray start", words.rstrip("\0").split("\0")).params


@GROUPS
def test_ray_start_takes_the_options_that_kuberay_makes_of_the_files(group):
    options = start_options(group)
    assert options["block"]
    assert options["metrics_export_port"] == 8080
    assert (options["num_cpus"], options["num_gpus"]) == ((0, 0) if group is HEAD else (4, 1))


def test_the_coordinator_keeps_off_the_group_that_is_marked_as_preemptible(monkeypatch):
    """Ray makes a label of the variable, and the coordinator asks for a node that has another one, or none."""
    market = {variable["name"]: variable["value"] for variable in container(GPU)["env"]}["RAY_NODE_MARKET_TYPE"]
    monkeypatch.setattr(cluster, "get_current_placement_group", lambda: None)
    assert cluster.stable()["label_selector"] == {"ray.io/market-type": f"!in({market})"}
    assert "RAY_NODE_MARKET_TYPE" not in {variable["name"] for variable in container(HEAD)["env"]}


@GROUPS
def test_object_store_fits_into_shared_memory_and_all_memory_into_the_limit(group):
    options = start_options(group)
    (shm,) = (v["emptyDir"] for v in pod(group)["volumes"] if "emptyDir" in v)
    # Ray leaves /dev/shm for slow files where the store is more than 95% of what is free there.
    assert options["object_store_memory"] < 0.95 * int(parse_quantity(shm["sizeLimit"]))
    assert shm["medium"] == "Memory"
    of_ray_itself = limit(group, "memory") - options["memory"] - options["object_store_memory"]
    assert of_ray_itself >= 2 * GIB


def node_types():
    return autoscaling_config()["available_node_types"]


def autoscaling_config():
    """What the autoscaler's container makes of the file."""
    return _derive_autoscaling_config_from_ray_cr(
        {**CLUSTER, "metadata": {**CLUSTER["metadata"], "namespace": "default"}}
    )


@pytest.mark.parametrize(("blocks", "nodes"), [(1, 1), (10, 10), (12, 10)])
def test_the_autoscaler_starts_a_gpu_node_for_every_block_and_none_before(blocks, nodes):
    assert GPU["replicas"] == GPU["minReplicas"] == 0
    config = AutoscalingConfig(autoscaling_config(), skip_content_hash=True)
    asked = [ResourceRequestUtil.make({"GPU": 1}) for _ in range(blocks)]
    launched = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(asked),
        )
    )
    counts = {launch.instance_type: launch.count for launch in launched.to_launch}
    assert counts.pop("gpu") == nodes
    assert counts in ({}, {"headgroup": 1})


def test_kuberay_gives_the_token_to_every_container():
    """It adds RAY_AUTH_MODE and RAY_AUTH_TOKEN, unless a container has them: then its autoscaler has another token."""
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}
    assert "RAY_AUTH" not in str([HEAD, GPU, SUBMITTER])


@pytest.mark.parametrize(
    ("securing_pod", "securing_container"),
    [
        *((pod(group)["securityContext"], container(group)["securityContext"]) for group in (HEAD, GPU)),
        (SUBMITTER["spec"]["securityContext"], SUBMITTER["spec"]["containers"][0]["securityContext"]),
        (pod(HEAD)["securityContext"], CLUSTER["spec"]["autoscalerOptions"]["securityContext"]),
    ],
    ids=["head", "gpu", "submitter", "autoscaler"],
)
def test_pods_keep_to_the_pod_security_standard_restricted(securing_pod, securing_container):
    assert securing_pod["runAsNonRoot"]
    assert securing_pod["runAsUser"] == 1000, "the image's user"
    assert securing_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert securing_container == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_notice_of_a_pod_that_ends_is_a_command_of_rays_within_the_grace():
    script = container(GPU)["lifecycle"]["preStop"]["exec"]["command"][-1]
    _, name, *options = shlex.split(script.partition("&&")[0])
    notice = cli.commands[name].make_context(name, options).params
    assert notice["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert notice["deadline_remaining_seconds"] < pod(GPU)["terminationGracePeriodSeconds"]


def test_images_are_of_this_version_and_are_not_pulled_where_they_are():
    containers = [container(HEAD), container(GPU), *SUBMITTER["spec"]["containers"]]
    assert {each["image"] for each in containers} == {f"noprop-dist:{__version__}"}
    assert {each["imagePullPolicy"] for each in containers} == {"IfNotPresent"}


def test_both_files_describe_the_same_cluster_of_the_ray_that_is_pinned():
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={CLUSTER['spec']['rayVersion']}" in pins
    assert CLUSTER["spec"]["enableInTreeAutoscaling"]
    assert CLUSTER["spec"]["autoscalerOptions"]["version"] == "v2"


def test_a_lost_run_is_started_again_and_goes_on():
    entrypoint = JOB["spec"]["entrypoint"]
    assert JOB["spec"]["backoffLimit"] > 0
    assert "train --or-resume" in entrypoint
    settings = [each.replace("=/results/data", "=.") for each in re.findall(r"--set (\S+)", entrypoint)]
    load_config("cifar10", None, settings)


@GROUPS
def test_results_are_on_the_claim(group):
    assert pod(group)["volumes"][0]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]


@GROUPS
def test_the_pod_monitor_scrapes_ports_that_the_pods_have(group):
    wanted = {endpoint["port"] for endpoint in MONITOR["spec"]["podMetricsEndpoints"]}
    ports = {port["name"]: port["containerPort"] for port in container(group)["ports"]}
    assert wanted <= ports.keys()
    assert ports["noprop-metrics"] == load_config("digits", None, []).metrics.port
    assert ports["metrics"] == start_options(group)["metrics_export_port"], "KubeRay adds a port of that name else"


@GROUPS
def test_the_pod_monitor_selects_the_pods_and_kuberays_services_still_do(group):
    labels = group["template"]["metadata"]["labels"]
    assert MONITOR["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # The service of a RayJob's head selects pods by KubeRay's own value of this label.
    assert "app.kubernetes.io/name" not in labels


@pytest.mark.parametrize(("document", "schema"), [(CLUSTER, "rayclusters"), (JOB, "rayjobs")])
def test_kuberay_accepts_the_files_by_its_published_schema(document, schema):
    """KUBERAY_CRDS is a folder with KubeRay's ray-operator/config/crd/bases, of release 1.5.1 or newer."""
    folder = os.environ.get("KUBERAY_CRDS")
    if folder is None:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's CRDs")
    crd = yaml.safe_load((Path(folder) / f"ray.io_{schema}.yaml").read_text())
    served = {v["name"]: v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"]}
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
