"""The cluster that KUBECONFIG names: asked before anything is declared, for an `up` that has nothing to do asks nobody.

A cluster is known by the UID of its namespace kube-system, which is made once and never again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pulumi
import urllib3
from cryptography import x509
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from yaml import YAMLError

# What the stack remembers it by, and how somebody says that a stack goes to another one.
OUTPUT, MOVED = "cluster", "MEDLLM_MOVE_TO_CLUSTER"
_TIMEOUT_S = 10
_MINE = "correct KUBECONFIG; see `kubectl config view` and `kubectl auth whoami`"


def ask() -> str:
    """UID of the cluster that KUBECONFIG names.

    Raises:
        pulumi.RunError: no kubeconfig, no answer, or it does not know who asks; says in one line what to do.
    """
    asked = client.Configuration()
    try:
        config.load_kube_config(client_configuration=asked)  # type: ignore[no-untyped-call]
    # The client reads whatever YAML there is as if it were a kubeconfig.
    except (ConfigException, YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
        raise pulumi.RunError(f"{_source()}: no kubeconfig: {_one_line(error)}. Fix: {_MINE}") from None
    try:
        # One question, once: the client's own retries would take a minute to say the same.
        asked.retries = urllib3.Retry(total=0)
        found = client.CoreV1Api(client.ApiClient(asked)).read_namespace("kube-system", _request_timeout=_TIMEOUT_S)
    except ApiException as error:
        if error.status == 401:
            raise pulumi.RunError(f"{asked.host} does not know who asks: {_expiry(asked.cert_file)}") from None
        raise pulumi.RunError(
            f"{asked.host} lets nobody of this kubeconfig read the namespace kube-system ({error.status} "
            f"{error.reason}). Fix: act as a cluster-admin; {_MINE}"
        ) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise pulumi.RunError(
            f"the API server {asked.host} is unreachable: {_one_line(getattr(error, 'reason', None) or error)}. "
            f"Fix: {_MINE}; nothing was changed"
        ) from None
    return str(found.metadata.uid)  # type: ignore[union-attr]  # an object that was read has it


def same_as_before(uid: str) -> pulumi.Output[str]:
    """`uid`, once it is known to be the cluster of the last `up`; a stack that has nothing yet takes any.

    Without it, a kubeconfig of another cluster, with objects of the same names, would have them changed.

    Raises (when the output is awaited):
        pulumi.RunError: it is another one.
    """
    stack = f"{pulumi.get_organization()}/{pulumi.get_project()}/{pulumi.get_stack()}"
    before = pulumi.StackReference("before", stack).get_output(OUTPUT)
    return before.apply(lambda known: accept(uid, known))


def accept(uid: str, known: str | None) -> str:
    """Raises pulumi.RunError: `uid` is not the `known` cluster, and nobody said that the stack has moved."""
    if known in (None, uid) or os.environ.get(MOVED) == uid:
        return uid
    raise pulumi.RunError(
        f"{_source()} names another cluster ({uid}) than the stack's last `up` ({known}). Fix: correct KUBECONFIG; if "
        f"that cluster is gone and this one takes its place: `{MOVED}={uid} pulumi up --refresh --run-program`"
    )


def _source() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


def _expiry(certificate: str | None) -> str:
    """What is wrong with a client's certificate, and the fix. Its file holds it first, as kubectl wants it."""
    if certificate:
        ends = x509.load_pem_x509_certificate(Path(certificate).read_bytes()).not_valid_after_utc
        if ends < datetime.now(UTC):
            return f"the client certificate expired on {ends:%Y-%m-%d}. Fix: have a new kubeconfig made for you"
    return f"401 Unauthorized. Fix: {_MINE}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split()).rstrip(".")
