# SPDX-License-Identifier: Apache-2.0
"""`launch`: starts a command on many processes or hosts, watches it, and starts it again where that goes on.

local   processes of this machine        tpu    a TPU pod of Google Cloud, by gcloud
slurm   nodes of a GPU cluster           gke    TPU slices or GPU nodes of a Kubernetes cluster, by JobSet
"""
