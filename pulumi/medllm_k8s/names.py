"""Names that several components share."""

from __future__ import annotations

import re

# Roles of people; an identity provider or a client certificate puts somebody into the group.
DATA_SCIENTIST, OPERATOR, AUDITOR = "data-scientist", "operator", "auditor"
GROUP_PREFIX = "medllm:"
# Who has a node: `slurm` or `kubernetes`.
SCHEDULER_LABEL = "medllm.io/scheduler"
ACCELERATOR_LABEL = "accelerator"
COMPONENT_LABEL = "app.kubernetes.io/component"
TRAINER = "trainer"
SERVICE_ACCOUNT = "medllm-trainer"
REGISTRY_SECRET = "medllm-registry"
PART_OF = {"app.kubernetes.io/part-of": "medllm"}
# Class of pods → value; the higher one may push the lower one out. Inference serves patients, training can resume.
PRIORITIES = {"medllm-inference": 100_000, "medllm-training": 10_000, "medllm-interactive": 1_000}
INFERENCE_PRIORITY, TRAINING_PRIORITY = "medllm-inference", "medllm-training"
# Claim of each volume, by the names that were asked for.
CLAIMS = {"datasets": "lustre-pvc", "checkpoints": "ceph-pvc", "dicom_input": "encrypted-pvc", "cache": "cache-pvc"}
APP_CLAIM = "app-pvc"


def accelerator(model: str) -> str:
    """Value of the node label: "NVIDIA H200" → "nvidia-h200" (as asked), "NVIDIA A100-SXM4-80GB" → "nvidia-a100".

    Raises:
        ValueError: the model has no such form.
    """
    found = re.fullmatch(r"(\w+) (\w+)(-.*)?", model)
    if found is None:
        raise ValueError(f"{model!r} is no model of the form VENDOR MODEL")
    return f"{found[1]}-{found[2]}".lower()


def registry(image: str) -> str:
    """The part of an image's name before the first slash: who serves it."""
    return image.partition("/")[0]
