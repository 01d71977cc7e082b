"""The one secret of a stack, the registry's password: encrypted wherever Pulumi writes, known to the kubelets alone."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator

import pytest

from lab.kubernetes.kubelet.client import ApiError, Client
from lab.kubernetes.local import LocalControlPlane
from tests.kubernetes.program import NAMESPACE, Program, counts

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
PASSWORD = "correct-horse-battery"
AUTH = json.dumps({"auths": {"registry.internal": {"username": "puller", "password": PASSWORD}}})
KEY = "registryAuth"


@pytest.fixture
def signed_in(program: Program) -> Iterator[Program]:
    """The program with the registry's password, given as people give it: on standard input."""
    subprocess.run(
        ["pulumi", "config", "set", "--secret", KEY, "--non-interactive"], cwd=program.folder,
        env=program.variables(), input=AUTH, text=True, check=True, timeout=120,
    )  # fmt: skip
    yield program
    program.run("config", "rm", KEY)
    program.up()


def test_the_registrys_password_is_encrypted_and_only_kubelets_use_it(
    signed_in: Program, admin: Client, cluster: LocalControlPlane
) -> None:
    said = signed_in.run("preview", "--diff") + signed_in.up()
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/medllm-registry"
    stored = admin.get(secret)
    assert stored["type"] == "kubernetes.io/dockerconfigjson"
    assert base64.b64decode(stored["data"][".dockerconfigjson"]).decode() == AUTH
    account = signed_in.object("serviceaccount", "medllm-trainer")
    assert account["imagePullSecrets"] == [{"name": "medllm-registry"}]
    assert account["automountServiceAccountToken"] is False
    written = said + signed_in.state() + (signed_in.folder / "Pulumi.lab.yaml").read_text()
    for form in (PASSWORD, base64.b64encode(AUTH.encode()).decode()):
        assert form not in written
    for person in ("data-scientist", "operator", "auditor"):
        with pytest.raises(ApiError, match="forbidden"):
            Client(cluster.kubeconfig(person)).get(secret)
    assert set(counts(signed_in.up())) == {"unchanged"}
