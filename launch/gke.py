# SPDX-License-Identifier: Apache-2.0
"""A JobSet for Kubernetes (jobset.sigs.k8s.io): slices of TPUs, or nodes of GPUs, on Google Kubernetes Engine.

When a pod fails, JobSet starts all of them again, and the run goes on from its last checkpoint.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from launch.names import HOST, LaunchError, Pod, check_environment, check_name

GRACE = 120  # seconds from SIGTERM to the end
RESTARTS = 20


class Job(NamedTuple):
    """What is asked of the cluster: slices of a TPU pod, or nodes of GPUs."""

    name: str
    image: str
    pod: Pod | None = None
    slices: int = 1
    nodes: int = 0
    gpus: int = 8  # a node
    gpu: str = 'nvidia-h100-80gb'  # cloud.google.com/gke-accelerator
    secret: str = ''  # a Kubernetes secret, whose entries become environment variables
    claim: str = ''  # a volume that all pods share, found under /data


def manifest(job: Job, command: Sequence[str]) -> dict[str, Any]:
    """Returns the JobSet."""
    check_name(job.name)
    if not job.image:
        raise LaunchError('--image is missing: the container image in which the command runs')
    if (job.pod is None) == (job.nodes < 1):
        raise LaunchError('give --topology for TPUs or --nodes for GPUs, one of both')
    if job.secret:
        check_environment([job.secret.replace('-', '_')])
    workers = job.pod.hosts if job.pod else job.nodes
    device = {'google.com/tpu': min(job.pod.chips, HOST)} if job.pod else {'nvidia.com/gpu': job.gpus}
    container = {
        'name': 'mmjax',
        'image': job.image,
        'command': [*command, '--distributed'],
        'resources': {'limits': device, 'requests': dict(device)},
        'ports': [{'containerPort': 8471}, {'containerPort': 8080}, {'containerPort': 1234}],
        'volumeMounts': [{'name': 'shm', 'mountPath': '/dev/shm'}],
    }
    volumes: list[dict[str, Any]] = [{'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]
    if job.secret:
        container['envFrom'] = [{'secretRef': {'name': job.secret}}]
    if job.claim:
        container['volumeMounts'].append({'name': 'data', 'mountPath': '/data'})
        volumes.append({'name': 'data', 'persistentVolumeClaim': {'claimName': job.claim}})
    spec = {
        'restartPolicy': 'Never',
        'terminationGracePeriodSeconds': GRACE,
        'nodeSelector': selector(job),
        'containers': [container],
        'volumes': volumes,
    }
    replicated = {
        'name': 'workers',
        'replicas': job.slices,
        'template': {
            'spec': {
                'parallelism': workers,
                'completions': workers,
                'backoffLimit': 0,
                'completionMode': 'Indexed',
                'template': {'spec': spec},
            }
        },
    }
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        'metadata': {
            'name': job.name,
            # A slice is a node pool of its own.
            'annotations': {'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'},
        },
        'spec': {'failurePolicy': {'maxRestarts': RESTARTS}, 'replicatedJobs': [replicated]},
    }


def selector(job: Job) -> dict[str, str]:
    """Returns the labels of the nodes that are wanted."""
    if job.pod is None:
        return {'cloud.google.com/gke-accelerator': job.gpu}
    return {
        'cloud.google.com/gke-tpu-accelerator': job.pod.kind.node,
        'cloud.google.com/gke-tpu-topology': 'x'.join(map(str, sorted(job.pod.topology))),
    }
