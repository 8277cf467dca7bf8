"""KubeRay's types, field by field from its API reference (ray.io/v1, KubeRay 1.6), as strict as `kubectl apply` is.

What Kubernetes itself defines comes from the `kubernetes` package, whose models refuse unknown fields as well.
"""

from typing import Any, Literal

from kubernetes.client import models as k8s
from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr

Strings = dict[StrictStr, StrictStr]


class Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AuthOptions(Fields):
    mode: Literal["disabled", "token"] | None = None
    secretName: StrictStr | None = None
    enableK8sTokenAuth: StrictBool | None = None


class AutoscalerOptions(Fields):
    resources: k8s.V1ResourceRequirements | None = None
    image: StrictStr | None = None
    imagePullPolicy: StrictStr | None = None
    securityContext: k8s.V1SecurityContext | None = None
    idleTimeoutSeconds: StrictInt | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    version: Literal["v1", "v2"] | None = None
    env: list[k8s.V1EnvVar] | None = None
    envFrom: list[k8s.V1EnvFromSource] | None = None
    volumeMounts: list[k8s.V1VolumeMount] | None = None


class HeadGroupSpec(Fields):
    template: k8s.V1PodTemplateSpec
    rayStartParams: Strings
    headService: k8s.V1Service | None = None
    enableIngress: StrictBool | None = None
    resources: Strings | None = None
    labels: Strings | None = None
    serviceType: StrictStr | None = None


class WorkerGroupSpec(Fields):
    groupName: StrictStr
    template: k8s.V1PodTemplateSpec
    rayStartParams: Strings
    minReplicas: StrictInt
    maxReplicas: StrictInt
    replicas: StrictInt | None = None
    idleTimeoutSeconds: StrictInt | None = None
    resources: Strings | None = None
    labels: Strings | None = None
    numOfHosts: StrictInt | None = None


class UpgradeStrategy(Fields):
    type: Literal["Recreate", "None"]


class RayClusterSpec(Fields):
    headGroupSpec: HeadGroupSpec
    workerGroupSpecs: list[WorkerGroupSpec]
    rayVersion: StrictStr
    authOptions: AuthOptions
    enableInTreeAutoscaling: StrictBool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    headServiceAnnotations: Strings | None = None
    upgradeStrategy: UpgradeStrategy | None = None
    suspend: StrictBool | None = None
    managedBy: StrictStr | None = None


class RayCluster(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: k8s.V1ObjectMeta
    spec: RayClusterSpec


class SubmitterConfig(Fields):
    backoffLimit: StrictInt | None = None


class RayJobSpec(Fields):
    entrypoint: StrictStr
    rayClusterSpec: RayClusterSpec
    activeDeadlineSeconds: StrictInt | None = None
    backoffLimit: StrictInt | None = None
    shutdownAfterJobFinishes: StrictBool | None = None
    ttlSecondsAfterFinished: StrictInt | None = None
    preRunningDeadlineSeconds: StrictInt | None = None
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] | None = None
    submitterPodTemplate: k8s.V1PodTemplateSpec | None = None
    submitterConfig: SubmitterConfig | None = None
    runtimeEnvYAML: StrictStr | None = None
    entrypointResources: StrictStr | None = None
    entrypointNumCpus: StrictFloat | None = None
    entrypointNumGpus: StrictFloat | None = None
    metadata: Strings | None = None
    jobId: StrictStr | None = None
    suspend: StrictBool | None = None
    managedBy: StrictStr | None = None


class RayJob(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: k8s.V1ObjectMeta
    spec: RayJobSpec


class ServiceUpgradeStrategy(Fields):
    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]


class RayServiceSpec(Fields):
    serveConfigV2: StrictStr
    rayClusterConfig: RayClusterSpec
    upgradeStrategy: ServiceUpgradeStrategy | None = None
    excludeHeadPodFromServeSvc: StrictBool | None = None
    serveService: k8s.V1Service | None = None
    rayClusterDeletionDelaySeconds: StrictInt | None = None
    managedBy: StrictStr | None = None


class RayService(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: k8s.V1ObjectMeta
    spec: RayServiceSpec


KINDS: dict[str, type[BaseModel]] = {
    "ConfigMap": k8s.V1ConfigMap,
    "RayCluster": RayCluster,
    "RayJob": RayJob,
    "RayService": RayService,
}


def check(document: dict[str, Any]) -> None:
    """Refuse a document with an unknown kind or field, a wrong type or a missing field.

    Raises:
        pydantic.ValidationError: with the path of each.
        AssertionError: a field is written as Python would (`mount_path`), which the models let pass.
    """
    model = KINDS[document["kind"]].model_validate(document)
    assert model.model_dump(by_alias=True, exclude_none=True) == document
