from __future__ import annotations

import copy
import shlex
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from dmeta.cli.settings.hydra_app import compose
from dmeta.training.config import run_config
from tests.cluster.files import (
    MANIFESTS,
    README,
    documents,
    manifest,
    pods,
    ray_cluster_specs,
    requirement,
    shell_blocks,
    values,
)
from tests.cluster.schemas import KINDS

SPECS = ray_cluster_specs()
EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
DOCUMENTS = [document for path in MANIFESTS for document in documents(path)]
NAMES = [f"{document['kind']} {document['metadata']['name']}" for document in DOCUMENTS]


def check(document: Any) -> None:
    jsonschema.validate(document, KINDS[document["kind"]])


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_a_manifest_has_known_fields_of_the_right_types(document) -> None:
    check(document)
    assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "dmeta"


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayCluster", ("spec", "autoscaling"), True),
        ("RayCluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("RayCluster", ("spec", "workerGroupSpecs", 0, "minReplicas"), "0"),
        ("RayCluster", ("spec", "workerGroupSpecs", 0, "template", "spec", "volumeMounts"), []),
        ("RayJob", ("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        ("StatefulSet", ("spec", "template", "spec", "containers", 0, "imagee"), "redis"),
        ("PersistentVolumeClaim", ("spec", "resources", "requests", "storage"), "100 GB"),
    ],
)
def test_the_check_refuses_a_mistake(kind, path, value) -> None:
    document = copy.deepcopy(manifest(kind))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(document)


@EVERY_SPEC
def test_rays_own_autoscaler_reads_the_cluster(spec) -> None:
    """A head without CPUs, and GPUs that come one a node."""
    resource = {"metadata": {"name": "dmeta", "namespace": "dmeta"}, "spec": spec}
    config = _derive_autoscaling_config_from_ray_cr(resource)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert "GPU" not in types["headgroup"]["resources"]
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["resources"]["CPU"] >= 1
    assert types["gpu"]["min_workers"] < types["gpu"]["max_workers"]
    assert spec["enableInTreeAutoscaling"] is True


@EVERY_SPEC
def test_the_cluster_asks_for_a_token_and_keeps_its_tables(spec) -> None:
    assert spec["authOptions"]["mode"] == "token"
    redis = manifest("Service")
    port = redis["spec"]["ports"][0]["port"]
    assert spec["gcsFaultToleranceOptions"]["redisAddress"] == f"{redis['metadata']['name']}:{port}"
    [container] = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == port
    password = spec["gcsFaultToleranceOptions"]["redisPassword"]
    assert container["env"][0]["valueFrom"] == password["valueFrom"]


@EVERY_SPEC
def test_the_image_and_its_ray_are_the_same_everywhere(spec) -> None:
    images = {pod["containers"][0]["image"] for every in SPECS.values() for pod in pods(every)}
    assert len(images) == 1
    assert spec["rayVersion"] in requirement("ray").specifier


@EVERY_SPEC
def test_every_node_sees_the_storage_and_gives_nothing_away(spec) -> None:
    claim = manifest("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(spec):
        [container] = pod["containers"]
        [volume] = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
        assert {"name": "DMETA_DATA", "value": "/shared/data"} in container["env"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_readme_makes_every_secret_that_is_asked_for() -> None:
    commands = "\n".join(shell_blocks(README)).replace("\\\n", " ")
    made = set()
    for line in commands.splitlines():
        words = line.split()
        if words[:5] == ["kubectl", "-n", "dmeta", "create", "secret"]:
            keys = [w.partition("=")[2].partition("=")[0] for w in words if w.startswith("--from-")]
            made |= {(words[6], key) for key in keys}
    asked = {(ref["name"], ref["key"]) for d in DOCUMENTS for ref in values(d, "secretKeyRef")}
    asked |= {(name, "auth_token") for d in DOCUMENTS for name in values(d, "secretName")}
    assert asked == made == {("dmeta-token", "auth_token"), ("dmeta-redis", "password")}


def test_the_job_is_a_run_that_goes_on_when_it_is_tried_again() -> None:
    spec = manifest("RayJob")["spec"]
    program, verb, *overrides = shlex.split(spec["entrypoint"])
    config = run_config(compose(verb, overrides))
    assert (program, config.resume) == ("dmeta", "auto")
    assert str(config.run_dir).startswith("/shared/")
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    [group] = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert config.runtime.min_workers == group["minReplicas"] == group["replicas"]
    assert config.runtime.num_workers == group["maxReplicas"]
