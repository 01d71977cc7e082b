"""Pulumi's real command line with the stand-ins and a real API server, on small programs."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lab.kubernetes import build
from lab.kubernetes.local import LocalControlPlane
from lab.kubernetes.pki import Identity
from lab.pulumi.install import install, pulumi_home
from lab.pulumi.provider_api import Api, ApiError
from lab.pulumi.provider_kubeconfig import load
from lab.pulumi.provider_values import Json
from tests.kubernetes.pulumi_stack import SECONDS, Stack, counts, error_lines, eventually, own_processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command line with its plugins; `bin` and `home` in it."""
    directory = tmp_path_factory.mktemp("pulumi")
    install(directory, build.ensure({"pulumi"}, print)["pulumi"])
    return directory


@pytest.fixture
def api(cluster: LocalControlPlane) -> Api:
    return Api(load(str(cluster.kubeconfig())))


@pytest.fixture
def stack(cluster: LocalControlPlane, plugins: Path, api: Api, tmp_path: Path) -> Iterator[Stack]:
    """An empty stack; the namespace that its program makes goes afterwards."""
    (tmp_path / "state").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: medllm\nruntime: python\nbackend:\n  url: file://./state\n")
    made = Stack(
        tmp_path,
        {
            "PATH": f"{plugins / 'bin'}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PULUMI_HOME": str(pulumi_home(plugins)),
            "PULUMI_CONFIG_PASSPHRASE": "passphrase",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "KUBECONFIG": str(cluster.kubeconfig()),
        },
    )
    made.pulumi("stack", "init", "lab")
    yield made
    assert own_processes(made) == [], "a plugin or a program was left"
    space = {"apiVersion": "v1", "kind": "Namespace"}
    try:
        api.delete(space, made.space, "Background")
    except ApiError as error:
        if error.status != 404:
            raise


def _item(kind: str, stack: Stack, name: str = "") -> Json:
    metadata = {"name": name or stack.space} | ({"namespace": stack.space} if name else {})
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def _there(api: Api, item: Json) -> Json | None:
    try:
        return api.get(item)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def _edit(api: Api, item: Json, operations: list[Json], manager: str = "kubectl-edit") -> None:
    """What `kubectl edit` does."""
    metadata = item["metadata"]
    url = api.of(item).url(metadata.get("namespace", ""), metadata["name"])
    api.request("PATCH", url, {"fieldManager": manager}, operations, "application/json-patch+json")


_TENANCY = """
class Tenancy(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("medllm:k8s:Tenancy", name)
        own = Options(parent=self)
        self.space = Namespace("space", metadata={"name": SPACE}, opts=own)
        inside = {"namespace": self.space.metadata.name}
        self.quota = ResourceQuota("quota", metadata={"name": "quota", **inside}, spec={"hard": HARD}, opts=own)
        self.config = ConfigMap("config", metadata={"name": "config", **inside}, data=DATA, opts=own)
        self.register_outputs({})

tenancy = Tenancy("tenancy")
pulumi.export("namespace", tenancy.space.metadata.name)
"""


def _tenancy(stack: Stack, hard: Json, data: Json) -> None:
    stack.program(_TENANCY.replace("HARD", repr(hard)).replace("DATA", repr(data)))


def test_preview_up_change_drift_refresh_replace_destroy(stack: Stack, api: Api) -> None:
    _tenancy(stack, {"pods": 4, "limits.memory": "1024Mi"}, {"a": "1"})
    assert counts(stack.pulumi("preview")) == {"create": 5}
    assert _there(api, _item("Namespace", stack)) is None
    assert counts(stack.up()) == {"created": 5}
    quota = api.get(_item("ResourceQuota", stack, "quota"))
    assert quota["spec"]["hard"] == {"pods": "4", "limits.memory": "1Gi"}
    assert counts(stack.pulumi("up", "--yes")) == {"unchanged": 5}
    stack.pulumi("preview", "--expect-no-changes")

    # An update in place, its preview first.
    _tenancy(stack, {"pods": 5, "limits.memory": "1Gi"}, {"a": "1"})
    stack.pulumi("preview", "--expect-no-changes", status=None)
    assert counts(stack.pulumi("up", "--yes")) == {"updated": 1, "unchanged": 4}
    assert api.get(_item("ResourceQuota", stack, "quota"))["spec"]["hard"]["pods"] == "5"

    # Drift is shown by a refresh and repaired by the next update.
    _edit(api, _item("ResourceQuota", stack, "quota"), [{"op": "replace", "path": "/spec/hard/pods", "value": "50"}])
    assert "expect-no-changes" not in stack.pulumi("preview", "--expect-no-changes")
    stack.pulumi("preview", "--refresh", "--expect-no-changes", status=None)
    assert counts(stack.pulumi("refresh", "--yes", "--skip-preview"))["updated"] == 1
    assert counts(stack.up()) == {"updated": 1, "unchanged": 4}
    assert api.get(_item("ResourceQuota", stack, "quota"))["spec"]["hard"]["pods"] == "5"

    # Changed data replaces a ConfigMap: the old one goes first, for it has the name.
    before = api.get(_item("ConfigMap", stack, "config"))["metadata"]["uid"]
    _tenancy(stack, {"pods": 5, "limits.memory": "1Gi"}, {"a": "2"})
    assert counts(stack.pulumi("up", "--yes")) == {"replaced": 1, "unchanged": 4}
    after = api.get(_item("ConfigMap", stack, "config"))
    assert after["data"] == {"a": "2"}
    assert after["metadata"]["uid"] != before

    # What somebody deleted comes back.
    api.delete(_item("ConfigMap", stack, "config"), "config", "Background")
    assert counts(stack.up("--refresh")) == {"created": 1, "unchanged": 4}

    assert counts(stack.pulumi("destroy", "--yes", "--skip-preview")) == {"deleted": 5}
    assert _there(api, _item("Namespace", stack)) is None
    assert stack.resources() == {}


def test_a_secret_is_nowhere_in_plain_text(stack: Stack, api: Api, plugins: Path) -> None:
    stack.program("""
        token = pulumi.Config().require_secret("token")
        space = Namespace("space", metadata={"name": SPACE})
        inside = {"namespace": space.metadata.name}
        Secret("marked", metadata={"name": "marked", **inside}, string_data={"key": token})
        Secret("plain", metadata={"name": "plain", **inside}, string_data={"key": "unmarked-word-1"})
        ConfigMap("config", metadata={"name": "config", **inside}, data={"line": token.apply(lambda t: f"x={t}")})
        pulumi.export("token", token)
    """)
    stack.pulumi("config", "set", "--secret", "token", "hidden-word-1")
    printed = stack.up("--diff") + stack.pulumi("stack") + stack.pulumi("stack", "export")
    # Not --logtostderr: there the engine itself logs each value that passes.
    printed += stack.pulumi("up", "--yes", "--diff", "--debug")
    assert api.get(_item("Secret", stack, "marked"))["data"] == {"key": "aGlkZGVuLXdvcmQtMQ=="}
    written = [path for root in (stack.folder, plugins) for path in root.rglob("*") if path.is_file()]
    # Not the program itself, which has the word in it, nor the command line.
    written = [path for path in written if path.name != "pulumi" and not path.name.startswith("__main__.")]
    assert stack.state_file in written
    for word in ("hidden-word-1", "unmarked-word-1", "aGlkZGVuLXdvcmQtMQ", "dW5tYXJrZWQtd29yZC0x"):
        assert [line for line in printed.splitlines() if word in line] == []
        assert [str(path) for path in written if word.encode() in path.read_bytes()] == []
    assert stack.pulumi("stack", "output", "token", "--show-secrets").strip() == "hidden-word-1"
    before = stack.state_file.read_bytes()
    wrong = stack.up(status=None, PULUMI_CONFIG_PASSPHRASE="another")
    assert "incorrect passphrase" in wrong
    assert stack.state_file.read_bytes() == before


def test_a_renamed_resource_with_an_alias_is_the_same_one(stack: Stack, api: Api) -> None:
    stack.program('Namespace("old", metadata={"name": SPACE})')
    stack.up()
    uid = api.get(_item("Namespace", stack))["metadata"]["uid"]
    stack.program('Namespace("new", metadata={"name": SPACE}, opts=Options(aliases=[pulumi.Alias(name="old")]))')
    assert counts(stack.up()) == {"unchanged": 2}
    assert list(stack.resources()) == ["new"]
    # Without the alias it would be made anew, and the object of that name is there: refused, nothing is lost.
    stack.program('Namespace("third", metadata={"name": SPACE})')
    assert "already exists" in stack.up(status=None)
    assert api.get(_item("Namespace", stack))["metadata"]["uid"] == uid


def test_a_protected_resource_is_not_deleted_and_a_retained_one_stays(stack: Stack, api: Api) -> None:
    stack.program("""
        space = Namespace("space", metadata={"name": SPACE})
        inside = {"namespace": space.metadata.name}
        ConfigMap("data", metadata={"name": "data", **inside}, data={"a": "1"}, opts=Options(protect=True))
    """)
    stack.up()
    assert "protect" in stack.pulumi("destroy", "--yes", "--skip-preview", status=None)
    assert _there(api, _item("ConfigMap", stack, "data"))
    stack.program("""
        ConfigMap("data", metadata={"name": "data", "namespace": SPACE}, data={"a": "1"},
                  opts=Options(retain_on_delete=True))
        Namespace("space", metadata={"name": SPACE})
    """)
    assert counts(stack.up()) == {"unchanged": 3}
    stack.program('Namespace("space", metadata={"name": SPACE})')
    assert counts(stack.up())["deleted"] == 1
    assert _there(api, _item("ConfigMap", stack, "data"))


def test_import_ignored_changes_conflicts_and_existing_objects(stack: Stack, api: Api) -> None:
    api.create(_item("Namespace", stack), dry_run=False)
    quota = _item("ResourceQuota", stack, "quota") | {"spec": {"hard": {"pods": "4"}}}
    api.create(quota, dry_run=False)
    declared = 'ResourceQuota("quota", metadata={"name": "quota", "namespace": SPACE}, spec={"hard": {"pods": POD}}, '

    def program(pods: str, options: str, annotations: str = "{}") -> None:
        text = declared.replace("POD", repr(pods)).replace(
            '"namespace": SPACE', f'"namespace": SPACE, "annotations": {annotations}'
        )
        stack.program(f"{text}opts=Options({options}))")

    program("4", "")
    assert "already exists" in stack.up(status=None)
    assert "quota" not in stack.resources()
    program("5", f"import_='{stack.space}/quota'")
    imported = counts(stack.up())
    assert (imported["imported"], imported["updated"]) == (1, 1)
    assert api.get(quota)["spec"]["hard"]["pods"] == "5"
    program("5", "")
    assert counts(stack.up()) == {"unchanged": 2}

    # Another program takes the field.
    api.apply(quota | {"spec": {"hard": {"pods": "7"}}}, "autoscaler", force=True, dry_run=False)
    program("5", "ignore_changes=['spec.hard.pods']")
    assert counts(stack.up("--refresh"))["unchanged"] == 2
    assert api.get(quota)["spec"]["hard"]["pods"] == "7"
    program("6", "")
    failed = stack.up(status=None)
    assert "field conflict detected" in failed
    assert 'conflict with "autoscaler"' in failed
    assert api.get(quota)["spec"]["hard"]["pods"] == "7"
    program("6", "", '{"pulumi.com/patchForce": "true"}')
    assert counts(stack.up())["updated"] == 1
    assert api.get(quota)["spec"]["hard"]["pods"] == "6"
    stack.pulumi("destroy", "--yes", "--skip-preview")
    assert _there(api, quota) is None


def test_a_patch_of_a_node_is_given_up_and_the_node_stays(stack: Stack, api: Api) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": stack.space, "labels": {"kept": "yes"}}}
    api.create(node, dry_run=False)
    stack.program('NodePatch("node", metadata={"name": SPACE, "labels": {"accelerator": "nvidia-h200"}})')
    assert counts(stack.pulumi("up", "--yes")) == {"created": 2}
    assert api.get(node)["metadata"]["labels"]["accelerator"] == "nvidia-h200"
    assert counts(stack.up("--refresh")) == {"unchanged": 2}
    stack.pulumi("destroy", "--yes", "--skip-preview")
    assert api.get(node)["metadata"]["labels"] == {"kept": "yes"}
    api.delete(node, stack.space, "Background")


_WAITING = """
from pulumi_kubernetes.batch.v1 import Job

space = Namespace("space", metadata={"name": SPACE})
pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
Job("job", metadata={"name": "job", "namespace": space.metadata.name}, spec={"template": {"spec": pod}})
"""


def _job(stack: Stack) -> Json:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": stack.space}}


def test_control_c_stops_at_once_and_the_state_knows_what_was_made(stack: Stack, api: Api) -> None:
    stack.program(_WAITING)
    running = stack.start("up", "--yes", "--skip-preview")
    eventually(lambda: _there(api, _job(stack)), "the Job is there")
    started = time.monotonic()
    os.killpg(running.pid, signal.SIGINT)
    output, _ = running.communicate(timeout=SECONDS)
    assert time.monotonic() - started < 60
    assert running.returncode != 0
    assert "cancelled" in output
    assert {"space", "job"} <= set(stack.resources())
    eventually(lambda: not own_processes(stack), "the plugins are gone")
    # No lock is left.
    assert counts(stack.pulumi("destroy", "--yes", "--skip-preview"))["deleted"] == 3


def test_after_a_kill_the_lock_is_cancelled_and_the_update_goes_on(stack: Stack, api: Api) -> None:
    stack.program(_WAITING)
    running = stack.start("up", "--yes", "--skip-preview")
    eventually(lambda: _there(api, _job(stack)), "the Job is there")
    running.kill()
    running.communicate(timeout=SECONDS)
    eventually(lambda: not own_processes(stack), "the plugins and the program are gone with the engine")
    assert "locked" in stack.up(status=None)
    stack.pulumi("cancel", "--yes")
    # The Job was being made when the engine died: only a look at the cluster can tell whether it was.
    assert "already exists" in stack.up(status=None)
    quietly = ("--yes", "--skip-preview", "--generate-code=false", "--protect=false")
    stack.pulumi("import", "kubernetes:batch/v1:Job", "job", f"{stack.space}/job", *quietly)
    assert {"space", "job"} <= set(stack.resources())
    stack.pulumi("destroy", "--yes", "--skip-preview")
    assert _there(api, _job(stack)) is None


def test_without_a_cluster_it_is_one_line_and_the_state_stays(
    stack: Stack, cluster: LocalControlPlane, api: Api, tmp_path: Path
) -> None:
    stack.program('Namespace("space", metadata={"name": SPACE})')
    stack.up()
    before = stack.resources()
    expired = cluster.issue(tmp_path / "expired", Identity("late", ("system:masters",)), timedelta(days=-1))
    closed = tmp_path / "closed"
    closed.write_text(cluster.kubeconfig().read_text().replace(cluster.server, "https://127.0.0.1:1"))
    stack.program('Namespace("space", metadata={"name": SPACE, "labels": {"a": "b"}})')
    for kubeconfig, reason in (
        (closed, r"https://127\.0\.0\.1:1: Connection refused\. Fix: start the cluster"),
        (expired, r"answered 401 Unauthorized: the client certificate expired on .* UTC\. Fix: get a new kubeconfig"),
        (tmp_path / "missing", r"there is no kubeconfig at .*missing\. Fix: set KUBECONFIG"),
    ):
        output = stack.up(status=None, KUBECONFIG=str(kubeconfig))
        lines = [line for line in error_lines(output) if "unreachable" in line]
        assert len(lines) == 1, output
        assert re.search(reason, lines[0]), output
        assert stack.resources() == before
        assert re.search(reason, stack.pulumi("preview", KUBECONFIG=str(kubeconfig)))
    labels = api.get(_item("Namespace", stack))["metadata"]["labels"]
    assert labels == {"kubernetes.io/metadata.name": stack.space}
    assert counts(stack.up()) == {"updated": 1, "unchanged": 1}


def test_a_failing_program_is_told_with_its_own_lines(stack: Stack, api: Api) -> None:
    for text, expected in (
        ("raise pulumi.RunError('wrong stack. Fix: select another')", "error: wrong stack. Fix: select another"),
        ("def inner():\n    return 1 / 0\ninner()", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('stopped')", "stopped"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("def broken(:", "SyntaxError"),
    ):
        stack.program(text)
        output = stack.up(status=None)
        assert expected in output
        assert "runpy" not in output
        assert "language_program.py" not in output
    (stack.folder / "__main__.py").unlink()
    assert "no program at" in stack.up(status=None)
    assert stack.resources() == {}


def test_the_programs_folder_arguments_and_output_are_as_under_the_genuine_host(stack: Stack) -> None:
    (stack.folder / "medllm_helper.py").write_text("VALUE = 'from beside the program'\n")
    stack.program("""
        import os, sys
        import medllm_helper
        pulumi.export("value", medllm_helper.VALUE)
        pulumi.export("folder", os.getcwd())
        pulumi.export("stack", pulumi.get_stack() + pulumi.get_project() + pulumi.get_organization())
        pulumi.export("input", sys.stdin.read())
        print("to be seen")
    """)
    output = stack.up()
    assert "to be seen" in output
    found = json.loads(stack.pulumi("stack", "output", "--json"))
    assert found == {
        "value": "from beside the program", "folder": str(stack.folder), "stack": "labmedllmorganization", "input": "",
    }  # fmt: skip
