"""From a container's manifest to the process that is started for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .client import Json
from .config import HOST, Config
from .environment import PATH, Lookup, PodFacts, arguments, variables
from .launch import TERMINATION, Launch, Mount
from .names import hostname
from .security import identity
from .volumes import Source, mounts

_MESSAGE_BYTES = 4096
_MESSAGE_LOG_BYTES = 2048
_GPU_CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


class ImageError(Exception):
    """The container's image can't be had. `reason` is the kubelet's word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def check_image(container: Json, images: Mapping[str, str]) -> None:
    """Nothing is pulled: an image is there when the configuration says what stands for it.

    Raises:
        ImageError: it is not there.
    """
    reference = container.get("image") or ""
    if images.get(reference) == HOST:
        return
    if container.get("imagePullPolicy") == "Never":
        message = f'Container image "{reference}" is not present with pull policy of Never'
        raise ImageError("ErrImageNeverPull", message)
    cause = "not found (the lab's kubelet knows the images of its configuration and pulls none)"
    raise ImageError("ErrImagePull", f'failed to pull image "{reference}": {cause}')


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What one attempt at a container is built from. `api` is host and port of the API server."""

    config: Config
    facts: PodFacts
    sources: Mapping[str, Source]
    gpus: list[int]
    hosts: Path
    log: Path
    api: tuple[str, int]


def build(container: Json, around: Surroundings, lookup: Lookup, attempt: Path) -> Launch:
    """The process for `container`; `attempt` is the directory of this attempt.

    Raises:
        CreateError: something that the manifest names is missing or wrong.
        ApiError, Unreachable: the API server did not answer as hoped.
    """
    pod = around.facts.pod
    who = identity(pod, container)
    host = hostname(pod, around.config.node_name)
    known = {
        "PATH": PATH,
        "HOME": who.home,
        "HOSTNAME": host,
        # Cluster addresses do not route here: pods reach the API server where the node does.
        "KUBERNETES_SERVICE_HOST": around.api[0],
        "KUBERNETES_SERVICE_PORT": str(around.api[1]),
    }
    known |= variables(container, around.facts, lookup)
    if around.gpus:
        known |= dict.fromkeys(("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"), ",".join(map(str, around.gpus)))
    own = mounts(container, around.sources, known)
    taken = {mount.target for mount in own}
    managed = [
        Mount(str(around.hosts), "/etc/hosts", read_only=False),
        Mount(
            str(attempt / TERMINATION),
            container.get("terminationMessagePath") or "/dev/termination-log",
            read_only=False,
        ),
    ]
    return Launch(
        argv=arguments(container, known),
        environment=known,
        directory=container.get("workingDir") or "/",
        hostname=host.split(".")[0],
        log=str(around.log),
        mounts=[*own, *(mount for mount in managed if mount.target not in taken)],
        devices=_devices(container, around.gpus),
        uid=who.uid,
        gid=who.gid,
        groups=list(who.groups),
        dropped=list(who.dropped),
        no_new_privileges=who.no_new_privileges,
        read_only_root=who.read_only_root,
    )


def _devices(container: Json, gpus: list[int]) -> list[str]:
    """Devices below /dev that the container's resources stand for, of those that the node has."""
    names = [*(f"nvidia{index}" for index in gpus), *_GPU_CONTROL] if gpus else []
    limits = (container.get("resources") or {}).get("limits") or {}
    if any(str(name).startswith("rdma/") for name in limits):
        names += sorted(f"infiniband/{path.name}" for path in Path("/dev/infiniband").glob("*"))
    return [name for name in names if (Path("/dev") / name).is_char_device()]


def message_of(container: Json, attempt: Path, exit_code: int, log: Path) -> str:
    """The container's own last words: its termination message, or the end of its log if it asked for that."""
    text = _tail(attempt / TERMINATION, _MESSAGE_BYTES)
    if not text and exit_code and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        text = _tail(log, _MESSAGE_LOG_BYTES)
    return text


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read(size).decode(errors="replace")
    except FileNotFoundError:
        return ""
