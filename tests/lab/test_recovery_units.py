"""Steps under mgmt's own systemd: they outlive whoever started them, end at their deadline, and run once."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medllm.remote import Remote
from medllm.site import load_site

SITE = load_site(Path(__file__).parents[2] / "inventory/lab")
PYTHON = f"{SITE.paths.app}/ops/current/python"

PLAYBOOKS = {
    "mark.yml": "ansible.builtin.shell: echo done >> {{ playbook_dir }}/../did; sleep 3",
    "hangs.yml": "ansible.builtin.command: sleep 271828",
}
# Starts a step as the engine does, prints what it sees, and is killed at once where it is told to.
ENGINE = """
import json, os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from runbooks.engine.model import Incident, Slot, State, Step, StepStatus, Work
from runbooks.engine.units import UnitActions
order = json.loads(sys.argv[1])
now = datetime.now(UTC)
incident = Incident(
    "inc-20261123-0001", "gpu_fallen_off", "here", "", "", State.ACTING, 1, now, now, None, "", "", "", (), {}
)
work = Work(Slot.ACT, order["playbook"], deadline_s=order["deadline_s"])
step = Step(order["id"], incident.id, 1, 1, work, StepStatus.PLANNED, now, now)
actions = UnitActions(Path(order["root"]) / "steps", Path(order["root"]) / "content/inventory/site")
if "start" in order["do"]:
    actions.start(step, incident)
if "die" in order["do"]:
    os.kill(os.getpid(), signal.SIGKILL)
result = actions.poll(step)
print(json.dumps(result and [result.status, result.summary]))
"""


class Place:
    """A directory on mgmt with a content tree of its own, and a step with a name that nobody else has."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.root = f"/tmp/medllm-test-{uuid.uuid4().hex[:8]}"
        self.step = f"medllm-test-{uuid.uuid4().hex[:8]}-1-act"
        files = {
            "content/ansible.cfg": f"[defaults]\nhome = {self.root}/ansible\n",
            "content/inventory/site/hosts.yml": "all: {hosts: {here: {ansible_connection: local}}, vars: "
            "{ansible_python_interpreter: /usr/bin/python3}}\n",
        }
        for name, task in PLAYBOOKS.items():
            files[f"content/playbooks/{name}"] = (
                "- hosts: '{{ recovery_node }}'\n  gather_facts: false\n  tasks:\n"
                f'    - name: Work\n      {task.split(":")[0]}: "{task.partition(": ")[2]}"\n'
            )
        for path, text in files.items():
            remote.put(text.encode(), f"{self.root}/{path}", sudo=True)

    def sh(self, command: str) -> str:
        return self.remote.run(command, deadline_s=60, sudo=True).check().stdout.strip()

    def engine(self, do: str, playbook: str, *, deadline_s: int = 30) -> Any:
        order = {"do": do, "id": self.step, "playbook": playbook, "deadline_s": deadline_s, "root": self.root}
        command = f"{PYTHON} -c {shlex.quote(ENGINE)} {shlex.quote(json.dumps(order))}"
        result = self.remote.run(command, deadline_s=60, sudo=True)
        if "die" in do:
            assert result.rc != 0
            return None
        return json.loads(result.check().stdout)

    def wait(self, playbook: str, seconds: int) -> list[str]:
        script = (
            f"for i in $(seq {seconds}); do test -e {self.root}/steps/{self.step}/result.json && exit; sleep 1; done"
        )
        self.remote.run(script, deadline_s=seconds + 30, sudo=True)
        return list(self.engine("poll", playbook))

    def state(self) -> str:
        return self.sh(f"systemctl show --property=ActiveState --value {self.step}.service")


@pytest.fixture
def place() -> Iterator[Place]:
    with Remote(SITE.mgmt) as remote:
        made = Place(remote)
        yield made
        remote.run(f"systemctl stop {made.step}.service; rm -rf {made.root}", deadline_s=60, sudo=True)


def test_a_step_outlives_the_engine_that_was_killed_and_runs_once(place: Place) -> None:
    place.engine("start die", "mark.yml")
    assert place.state() == "active"
    # Its successor starts it again, as after every restart, while it runs and after it ended.
    assert place.engine("start poll", "mark.yml") is None
    assert place.wait("mark.yml", 40) == ["ok", "mark.yml ended well on here"]
    assert place.engine("start poll", "mark.yml") == ["ok", "mark.yml ended well on here"]
    assert place.sh(f"cat {place.root}/content/did") == "done"


def test_a_hung_playbook_is_ended_with_all_that_it_started(place: Place) -> None:
    place.engine("start", "hangs.yml", deadline_s=8)
    status, summary = place.wait("hangs.yml", 40)
    assert (status, summary) == ("unknown", "did not end within 8 s; its last task: Work")
    place.remote.run("sleep 3", deadline_s=20)
    assert place.state() == "inactive"
    assert place.remote.run("pgrep -f '[s]leep 271828'", deadline_s=20, sudo=True).rc == 1


def test_a_runner_that_stands_still_is_ended_by_systemd(place: Place) -> None:
    place.engine("start", "hangs.yml", deadline_s=6)
    place.sh(f"sleep 3; systemctl kill --kill-who=all --signal=STOP {place.step}.service")
    assert place.engine("poll", "hangs.yml") is None
    # The deadline, the margin that the runner has to say why, and the time to end.
    place.remote.run("sleep 24", deadline_s=60)
    status, summary = place.engine("poll", "hangs.yml")
    assert status == "unknown"
    # systemd wakes it up to end it, and it may still say so; or it is killed and says nothing.
    assert "ended" in summary
    assert place.remote.run("pgrep -f '[s]leep 271828'", deadline_s=20, sudo=True).rc == 1
    # What began is never begun again.
    assert place.engine("start poll", "hangs.yml")[0] == "unknown"
    assert place.state() == "inactive"


def test_a_step_that_its_unit_never_began_is_begun_later(place: Place) -> None:
    """The engine died after it wrote `step.json`: no unit, no `started`. Polling it begins it."""
    place.engine("start", "mark.yml")
    place.wait("mark.yml", 40)
    place.sh(f"cd {place.root}/steps/{place.step} && rm started result.json && rm {place.root}/content/did")
    assert place.engine("poll", "mark.yml") is None
    assert place.wait("mark.yml", 40)[0] == "ok"
    assert place.sh(f"cat {place.root}/content/did") == "done"
