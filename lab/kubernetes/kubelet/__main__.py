"""`python3 -m kubelet --config FILE`: the kubelet; `--stop-pods` ends all that it left running."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from . import kernel
from .admission import Admission
from .client import Client
from .config import Config, ConfigError, load
from .events import Events
from .keeper import Shared
from .names import Names
from .node import NodeAgent
from .pods import Pods
from .runtime import Runtime

WRONG_INPUT = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="kubelet", description="The lab's kubelet.")
    parser.add_argument("--config", type=Path, required=True, help="JSON configuration (README.md has the keys)")
    parser.add_argument("--stop-pods", action="store_true", help="end what an earlier kubelet left running, and exit")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname).1s %(name)s: %(message)s", stream=sys.stderr)
    try:
        config = load(arguments.config)
        with _alone(config):
            if arguments.stop_pods:
                stop_pods(config)
            else:
                serve(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    return 0


@contextlib.contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Hold the state directory. Raises: ConfigError: another kubelet does, or it can't be made."""
    try:
        config.state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(config.state_directory / "kubelet.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"state_directory: {error}. Fix: give a directory that root can write") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        where = config.state_directory
        raise ConfigError(f"{where}: a kubelet runs with it already. Fix: stop that one first") from None
    finally:
        os.close(lock)


def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT; the pods stay, as those of any kubelet do.

    Raises:
        ConfigError: a kubeconfig is of no use.
    """
    try:
        client, names_client = Client(config.kubeconfig), Client(config.names_kubeconfig)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    runtime = Runtime(config.state_directory / "pods")
    events = Events(client, config.node_name)
    names = Names(names_client, lambda: pods.wake())
    pods = Pods(Shared(config, client, runtime, events, Admission(config), names.all))
    node = NodeAgent(client, config)
    for name, work in (("node", node.run), ("names", names.run), ("events", events.run), ("pods", pods.run)):
        threading.Thread(target=work, args=(stop,), daemon=True, name=name).start()
    stop.wait()


def stop_pods(config: Config) -> None:
    """Kill every container and take down every volume that is recorded on this node; no API server is asked.

    Raises:
        TimeoutError, OSError: something of it can't be ended.
    """
    runtime = Runtime(config.state_directory / "pods")
    for uid in list(runtime.pods()):
        directory = runtime.pod_directory(uid)
        for attempt in (directory / "containers").glob("*/*"):
            runtime.kill(attempt)
        for place in (directory / "volumes").glob("*"):
            while place.is_mount():
                kernel.unmount(str(place), kernel.MNT_DETACH)
        shutil.rmtree(directory)


if __name__ == "__main__":
    # Threads that wait for an answer are no reason to wait with them.
    code = main()
    sys.stderr.flush()
    os._exit(code)
