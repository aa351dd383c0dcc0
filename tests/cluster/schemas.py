"""The fields that Kubernetes and KubeRay (1.6, ray.io/v1) know, as far as `cluster/` can use them.

Closed: any other field is refused, as by an API server that checks strictly. Of the fields that
have much in them, those in use are given in full.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string", "minLength": 1}
INTEGER: Schema = {"type": "integer", "minimum": 0}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
ARRAY: Schema = {"type": "array"}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
QUANTITIES: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "integer"], "pattern": r"^\d+(m|Mi|Gi)?$"},
}


def closed(*required: str, **fields: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(item: Schema) -> Schema:
    """One or more of an item."""
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


METADATA = closed("name", name=STRING, namespace=STRING, labels=STRINGS, annotations=STRINGS)
RESOURCES = closed(requests=QUANTITIES, limits=QUANTITIES)
SECRET_KEY = closed("secretKeyRef", secretKeyRef=closed("name", "key", name=STRING, key=STRING))
ENV = closed("name", name=STRING, value={"type": "string"}, valueFrom=SECRET_KEY)

CONTAINER = closed(
    "name",
    "image",
    name=STRING,
    image=STRING,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    command=listed(STRING),
    args=listed(STRING),
    env=listed(ENV),
    ports=listed(closed("containerPort", name=STRING, containerPort=INTEGER)),
    readinessProbe=OBJECT,
    livenessProbe=OBJECT,
    lifecycle=OBJECT,
    resources=RESOURCES,
    securityContext=closed(
        allowPrivilegeEscalation=BOOLEAN,
        capabilities=closed(drop=ARRAY, add=ARRAY),
        readOnlyRootFilesystem=BOOLEAN,
    ),
    volumeMounts=listed(
        closed("name", "mountPath", name=STRING, mountPath=STRING, subPath=STRING, readOnly=BOOLEAN)
    ),
)

VOLUME = closed(
    "name",
    name=STRING,
    persistentVolumeClaim=closed("claimName", claimName=STRING, readOnly=BOOLEAN),
    emptyDir=closed(medium=STRING, sizeLimit=STRING),
)

POD = closed(
    "containers",
    containers=listed(CONTAINER),
    volumes=listed(VOLUME),
    automountServiceAccountToken=BOOLEAN,
    imagePullSecrets=ARRAY,
    nodeSelector=STRINGS,
    tolerations=listed(closed(key=STRING, operator=STRING, effect=STRING, value=STRING)),
    terminationGracePeriodSeconds=INTEGER,
    securityContext=closed(
        runAsNonRoot=BOOLEAN,
        runAsUser=INTEGER,
        fsGroup=INTEGER,
        seccompProfile=closed("type", type=STRING),
    ),
)

POD_TEMPLATE = closed("spec", metadata=closed(labels=STRINGS, annotations=STRINGS), spec=POD)

HEAD_GROUP = closed(
    "template",
    "rayStartParams",
    rayStartParams={"type": "object", "additionalProperties": {"type": "string"}},
    serviceType=STRING,
    headService=OBJECT,
    enableIngress=BOOLEAN,
    labels=STRINGS,
    resources=STRINGS,
    template=POD_TEMPLATE,
)

WORKER_GROUP = closed(
    "groupName",
    "minReplicas",
    "maxReplicas",
    "template",
    groupName={"type": "string", "pattern": r"^[a-z0-9-]+$"},
    replicas=INTEGER,
    minReplicas=INTEGER,
    maxReplicas=INTEGER,
    numOfHosts=INTEGER,
    idleTimeoutSeconds=INTEGER,
    rayStartParams={"type": "object", "additionalProperties": {"type": "string"}},
    labels=STRINGS,
    resources=STRINGS,
    template=POD_TEMPLATE,
)

RAY_CLUSTER_SPEC = closed(
    "rayVersion",
    "headGroupSpec",
    "workerGroupSpecs",
    rayVersion=STRING,
    authOptions=closed("mode", mode=one_of("token", "disabled"), secretName=STRING),
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=closed(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=INTEGER,
        image=STRING,
        imagePullPolicy=STRING,
        env=listed(ENV),
        resources=RESOURCES,
        securityContext=OBJECT,
    ),
    gcsFaultToleranceOptions=closed(
        "redisAddress",
        redisAddress=STRING,
        redisUsername=closed(value=STRING, valueFrom=SECRET_KEY),
        redisPassword=closed("valueFrom", valueFrom=SECRET_KEY),
        externalStorageNamespace=STRING,
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=listed(WORKER_GROUP),
    suspend=BOOLEAN,
)

RAY_JOB_SPEC = closed(
    "entrypoint",
    "rayClusterSpec",
    entrypoint=STRING,
    runtimeEnvYAML=STRING,
    backoffLimit=INTEGER,
    activeDeadlineSeconds=INTEGER,
    shutdownAfterJobFinishes=BOOLEAN,
    ttlSecondsAfterFinished=INTEGER,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    metadata=STRINGS,
    suspend=BOOLEAN,
    rayClusterSpec=RAY_CLUSTER_SPEC,
)

CLAIM_SPEC = closed(
    "accessModes",
    "resources",
    storageClassName=STRING,
    accessModes=listed(one_of("ReadWriteOnce", "ReadWriteMany")),
    resources=closed("requests", requests=QUANTITIES),
)

STATEFUL_SET_SPEC = closed(
    "serviceName",
    "selector",
    "template",
    serviceName=STRING,
    replicas=INTEGER,
    selector=closed("matchLabels", matchLabels=STRINGS),
    template=POD_TEMPLATE,
    volumeClaimTemplates=listed(closed("metadata", "spec", metadata=METADATA, spec=CLAIM_SPEC)),
)

SERVICE_SPEC = closed(
    "selector",
    "ports",
    selector=STRINGS,
    ports=listed(closed("port", name=STRING, port=INTEGER, targetPort=INTEGER)),
)


def _kind(version: str, kind: str, spec: Schema | None) -> Schema:
    fields = {"apiVersion": one_of(version), "kind": one_of(kind), "metadata": METADATA}
    if spec is not None:
        fields["spec"] = spec
    return closed(*fields, **fields)


KINDS: dict[str, Schema] = {
    "Namespace": _kind("v1", "Namespace", None),
    "PersistentVolumeClaim": _kind("v1", "PersistentVolumeClaim", CLAIM_SPEC),
    "Service": _kind("v1", "Service", SERVICE_SPEC),
    "StatefulSet": _kind("apps/v1", "StatefulSet", STATEFUL_SET_SPEC),
    "RayCluster": _kind("ray.io/v1", "RayCluster", RAY_CLUSTER_SPEC),
    "RayJob": _kind("ray.io/v1", "RayJob", RAY_JOB_SPEC),
}
