"""A real `serve` loop in a process of its own, killed again and again: systemd, machines and fault are stand-ins."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from medllm.errors import UserError
from runbooks.engine.loop import notify, only_one
from runbooks.engine.model import Slot, State, StepStatus
from runbooks.engine.store import Store
from tests.unit.recovery_tls import certificate

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]

# The loop as `serve` builds it, on a cluster that is as well as the steps that were done make it.
SERVE = """
import os, signal, subprocess, sys
from datetime import UTC, datetime
from pathlib import Path
from medllm.site import load_site
from runbooks.engine import loop as serve
from runbooks.engine.engine import Engine
from runbooks.engine.metrics import Metrics
from runbooks.engine.model import *
from runbooks.engine.procedure import load_procedures
from runbooks.engine.units import Systemd, UnitActions

state, repository = Path(sys.argv[1]), Path(sys.argv[2])
site = load_site(repository / "inventory/lab")
NODE = site.gpu_nodes[2].name
BEGAN = datetime.fromisoformat(sys.argv[3])
MARKS = state / "steps" / "done"

class Detached(Systemd):
    def active(self, unit):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if f"steps/{unit}".encode() in path.read_bytes():
                    return True
            except OSError:
                pass
        return False
    def run(self, unit, command, *, deadline_s, directory):
        subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return ""

RUNNER = '''
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from runbooks.engine import step_files
from runbooks.engine.model import StepResult, StepStatus
directory = Path(sys.argv[1])
if not step_files.claim(directory, {}):
    sys.exit(3)
with (directory.parent / "done").open("a") as stream:
    stream.write(directory.name + chr(10))
time.sleep(0.4)
step_files.write_result(directory, StepResult(StepStatus.OK, "did it", {}, datetime.now(UTC)))
'''

class Cluster:
    def start(self): pass
    def stop(self): pass
    def hurry(self): pass
    def ages(self): return {"alerts": 0.1}
    def did(self, slot):
        return MARKS.exists() and any(line.endswith("-" + slot) for line in MARKS.read_text().split())
    def world(self):
        now = datetime.now(UTC)
        nodes = {host.name: NodeView(host.name, True, boot_id="a") for host in site.gpu_nodes}
        scheduler = {host.name: SchedulerNode(host.name, frozenset({"IDLE"})) for host in site.gpu_nodes}
        if self.did("quiesce") and not self.did("return"):
            incident = next((line for line in MARKS.read_text().split()), "").split("-")
            reason = "medllm-recover:" + "-".join(incident[1:4])
            scheduler[NODE] = SchedulerNode(NODE, frozenset({"IDLE", "DRAIN"}), reason)
        return World(now, (), nodes, scheduler, (), ())

cluster = Cluster()

def find(world):
    if cluster.did("act"):
        return []
    signal_ = Signal("kernel", "xid-79", BEGAN, NODE, "5", detail="GPU has fallen off the bus.")
    return [Finding("gpu_fallen_off", NODE, "5", "", (signal_,), "XID 79 on GPU 5")]

inventory = repository / "inventory/lab"
actions = UnitActions(state / "steps", inventory, systemd=Detached(), runner=(sys.executable, "-c", RUNNER))
with serve.only_one(state), serve.JournalStore(state / "incidents.db") as store:
    procedures = load_procedures(repository / "runbooks/procedures")
    loop = serve.Loop(Engine(site, store, actions, procedures), store, cluster, find, Metrics())
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    loop.run()
"""


class Engine:
    """Starts the process, hears what it tells systemd, kills it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.bind(str(directory / "notify"))
        self.ear.settimeout(60)
        self.began = "2026-11-23T01:00:00+00:00"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SERVE, str(self.state), str(REPOSITORY), self.began]
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.directory / "notify")}
        self.process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
        return self.process

    def wait_ready(self) -> None:
        while b"READY=1" not in self.ear.recv(1000):
            pass

    def done(self) -> Counter[str]:
        path = self.state / "steps" / "done"
        return Counter(path.read_text().split() if path.exists() else [])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    if made.process and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    made.ear.close()


def closed(state: Path) -> bool:
    with Store(state / "incidents.db") as store:
        return any(incident.state is State.CLOSED for incident in store.incidents())


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_it_mends_the_fault_and_does_nothing_twice(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    kills = 0
    end = time.monotonic() + 400
    while True:
        process = engine.start()
        engine.wait_ready()
        # It lives a little longer each time, or on a busy machine it would never live long enough.
        time.sleep(chance.uniform(0, 1.2) + 0.1 * kills)
        if closed(engine.state):
            break
        assert time.monotonic() < end
        process.kill()
        process.wait()
        kills += 1
        # What the dead one had told systemd.
        engine.ear.setblocking(False)
        while True:
            try:
                engine.ear.recv(1000)
            except BlockingIOError:
                break
        engine.ear.settimeout(60)
    assert kills >= 2
    done = engine.done()
    assert set(done.values()) == {1}, done
    with Store(engine.state / "incidents.db") as store:
        (incident,) = store.incidents()
        steps = store.steps(incident.id)
        assert {step.status for step in steps} == {StepStatus.OK}
        assert [step.id for step in steps] == list(done)
        slots = list(dict.fromkeys(step.work.slot for step in steps))
        assert slots == [Slot.QUIESCE, Slot.ACT, Slot.REVALIDATE, Slot.RETURN]


def test_sigterm_ends_it_at_once_and_leaves_the_step_to_its_unit(engine: Engine) -> None:
    process = engine.start()
    engine.wait_ready()
    while not engine.done():
        time.sleep(0.02)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - begin < 2
    (step,) = engine.done()
    end = time.monotonic() + 10
    while not (engine.state / "steps" / step / "result.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_second_engine_is_refused_and_the_lock_dies_with_the_first(engine: Engine) -> None:
    process = engine.start()
    engine.wait_ready()
    with pytest.raises(UserError, match="another engine runs"), only_one(engine.state):
        pass
    process.kill()
    process.wait()
    with only_one(engine.state):
        pass


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_over_either_kind_of_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"medllm-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("\0" + name if abstract else name)
        ear.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        notify("READY=1\nWATCHDOG=1")
        assert ear.recv(100) == b"READY=1\nWATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@no-such-socket", "x" * 200])
def test_without_systemd_nothing_is_told_and_nothing_breaks(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("WATCHDOG=1")


@pytest.mark.parametrize("missing", ["webhook.token", "tls.pem", "tls.key"])
def test_serve_without_a_secret_says_which_and_what_to_do(tmp_path: Path, missing: str) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    certificate(secrets)
    (secrets / "webhook.token").write_text("0123456789abcdef")
    (secrets / missing).unlink()
    command = [
        sys.executable, "-m", "cli.main", "recover", "serve", "-i", "inventory/lab", "--listen", "127.0.0.1",
        "--state", str(tmp_path / "state"), "--secrets", str(secrets),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert missing in done.stderr
    assert "Fix:" in done.stderr
    assert "Traceback" not in done.stderr
