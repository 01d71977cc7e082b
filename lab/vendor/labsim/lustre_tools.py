"""`lctl`, `lfs` and `lnetctl`: what an operator and the roles use of them.

Layouts: lustre-release 2.15 lustre/utils/{lfs.c,lustre_cfg.c}, lnet/utils/portals.c; captures in tests/data/vendor.
"""

from __future__ import annotations

import argparse
import errno
import fnmatch
import os
import socket
import sys
from pathlib import Path

from . import kmod, lustre
from .lustre import Client

LAYOUT = "user.lab.layout"  # "count size" on a directory of the backing store
DEFAULT_LAYOUT = (1, 1048576)
SIZES = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def lctl(arguments: list[str]) -> int:
    """`lctl COMMAND …`."""
    commands = {
        "get_param": _get,
        "set_param": _set,
        "list_param": _list,
        "ping": _ping,
        "list_nids": _nids,
        "dl": _devices,
        "device_list": _devices,
    }
    if not arguments or arguments[0] not in commands:
        print(f"{arguments[0] if arguments else ''}: command not found, try 'help'", file=sys.stderr)
        return 1
    return commands[arguments[0]](arguments[1:])


def _parameters() -> dict[str, tuple[Client, str]]:
    return {name: (client, value) for client in lustre.clients() for name, value in client.all_parameters().items()}


def _split(arguments: list[str]) -> tuple[set[str], list[str]]:
    flags = {letter for word in arguments if word.startswith("-") for letter in word[1:]}
    return flags, [word for word in arguments if not word.startswith("-")]


def _match(command: str, pattern: str) -> list[str]:
    wanted = pattern.replace("/", ".")
    names = [name for name in _parameters() if _parts_match(name, wanted)]
    if not names:
        path = pattern.replace(".", "/")
        print(f"error: {command}: param_path '{path}': No such file or directory", file=sys.stderr)
    return names


def _parts_match(name: str, pattern: str) -> bool:
    have, want = name.split("."), pattern.split(".")
    return len(have) == len(want) and all(fnmatch.fnmatchcase(h, w) for h, w in zip(have, want, strict=True))


def _get(arguments: list[str]) -> int:
    flags, patterns = _split(arguments)
    status = 0
    for pattern in patterns:
        names = _match("get_param", pattern)
        status = status or (0 if names else errno.ENOENT)
        for name in names:
            value = _parameters()[name][1]
            many = "\n" in value
            if "N" in flags:
                print(name)
            elif "n" in flags:
                print(value)
            else:
                print(f"{name}={chr(10) if many else ''}{value}")
    return status


def _set(arguments: list[str]) -> int:
    flags, settings = _split(arguments)
    if "P" in flags:
        # Persistent parameters are kept by the MGS for all clients; lustre_cfg.c jt_lcfg_setparam_perm.
        print(
            "error: set_param: setting persistent parameters is only possible on the MGS: Operation not permitted",
            file=sys.stderr,
        )
        return errno.EPERM
    status = 0
    for setting in settings:
        pattern, separator, value = setting.partition("=")
        if not separator:
            print(f"error: set_param: setting {pattern}: Invalid argument", file=sys.stderr)
            return errno.EINVAL
        names = _match("set_param", pattern)
        status = status or (0 if names else errno.ENOENT)
        for name in names:
            client, old = _parameters()[name]
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "import" or (old.isdigit() and not value.isdigit()):
                print(f"error: set_param: setting {name.replace('.', '/')}={value}: Invalid argument", file=sys.stderr)
                status = errno.EINVAL
                continue
            lustre.remember_parameter(client.mount_point, name, value)
            if "n" not in flags:
                print(f"{name}={value}")
    return status


def _list(arguments: list[str]) -> int:
    _flags, patterns = _split(arguments)
    found = [name for pattern in patterns for name in _match("list_param", pattern)]
    print(*found, sep="\n")
    return 0 if found else errno.ENOENT


def own_nids() -> list[str]:
    """This node's NIDs: its address on the TCP network."""
    return [f"{socket.gethostbyname(socket.gethostname())}@tcp"] if kmod.loaded("lnet") else []


def _nids(_arguments: list[str]) -> int:
    if not kmod.loaded("lnet"):
        print("IOC_LIBCFS_GET_NI error 19: No such device", file=sys.stderr)
        return 1
    print(*own_nids(), sep="\n")
    return 0


def _ping(arguments: list[str]) -> int:
    _flags, nids = _split(arguments)
    if not nids or "@" not in nids[0]:
        print(f'Can\'t parse process id "{nids[0] if nids else ""}"', file=sys.stderr)
        return 1
    if not (kmod.loaded("lnet") and lustre.lustre()["reachable"]):
        print(f"failed to ping {nids[0]}: Input/output error", file=sys.stderr)
        return 1
    print(f"12345-0@lo\n12345-{nids[0]}")
    return 0


def _devices(_arguments: list[str]) -> int:
    number = 0
    for client in lustre.clients():
        rows = [("mgc", f"MGC{client.server}", "5")] + [
            (kind, f"{target}-{kind}-{client.instance}", "4") for kind, target in client.targets()
        ]
        for kind, name, references in rows:
            state = "UP" if lustre.healthy() else "IN"
            print(f"{number:3d} {state} {kind} {name} {client.instance[-8:]}-uuid {references}")
            number += 1
    return 0


def lnetctl(arguments: list[str]) -> int:
    """`lnetctl net show` and `lnetctl ping NID`."""
    if arguments[:2] == ["net", "show"]:
        print("net:\n    - net type: lo\n      local NI(s):\n        - nid: 0@lo\n          status: up")
        for nid in own_nids():
            print(f"    - net type: tcp\n      local NI(s):\n        - nid: {nid}\n          status: up")
            print("          interfaces:\n              0: eth0")
        return 0
    if arguments[:1] == ["ping"] and len(arguments) == 2:
        nid = arguments[1]
        if kmod.loaded("lnet") and lustre.lustre()["reachable"]:
            print(f"ping:\n    - primary nid: {nid}\n      Multi-Rail: True\n      peer ni:\n        - nid: {nid}")
            return 0
        print("manage:\n    - ping:\n          errno: -1")
        print(f"          descr: failed to ping {nid}: Input/output error")
        return 1
    print("lnetctl: unsupported command", file=sys.stderr)
    return 1


def lfs(arguments: list[str]) -> int:
    """`lfs COMMAND …`."""
    commands = {"df": _df, "getname": _getname, "setstripe": _setstripe, "getstripe": _getstripe, "check": _check}
    if not arguments or arguments[0] not in commands:
        print(f"{arguments[0] if arguments else ''}: command not found, try 'help'", file=sys.stderr)
        return 1
    return commands[arguments[0]](arguments[1:])


def _not_lustre(command: str, path: str) -> int:
    print(
        f"lfs {command}: '{path}' is not on a mounted Lustre filesystem: Inappropriate ioctl for device",
        file=sys.stderr,
    )
    return errno.ENOTTY


def _chosen(paths: list[str]) -> list[Client]:
    if not paths:
        return lustre.clients()
    return [client for client in map(lustre.client_of, paths) if client]


def _df(arguments: list[str]) -> int:
    flags, paths = _split(arguments)
    clients = _chosen(paths)
    if paths and not clients:
        return _not_lustre("df", paths[0])
    human = "h" in flags
    for client in clients:
        if not lustre.healthy():
            print(f"lfs df: cannot get information for '{client.mount_point}': Input/output error", file=sys.stderr)
            return errno.EIO
        used, total = lustre.usage()
        title = "bytes" if human else "1K-blocks"
        print(f"{'UUID':<20} {title:>11} {'Used':>11} {'Available':>11} Use% Mounted on")
        for kind, target in client.targets():
            size, full = (total // 16, used // 64) if kind == "mdc" else (total, used)
            _df_line(
                f"{target}_UUID", size, full, f"{client.mount_point}[{target[-7:-4]}:{int(target[-4:], 16)}]", human
            )
        print()
        _df_line("filesystem_summary:", total * lustre.OSTS, used * lustre.OSTS, client.mount_point, human)
        print()
    return 0


def _df_line(name: str, total: int, used: int, where: str, human: bool) -> None:
    cells = [_human(v) if human else str(v // 1024) for v in (total, used, total - used)]
    print(f"{name:<20} " + " ".join(f"{cell:>11}" for cell in cells) + f" {used * 100 // total:3d}% {where}")


def _human(value: float) -> str:
    for unit in "KMGTP":
        value /= 1024
        if value < 1024:
            return f"{value:.1f}{unit}"
    return f"{value:.1f}E"


def _getname(arguments: list[str]) -> int:
    _flags, paths = _split(arguments)
    clients = _chosen(paths)
    if paths and not clients:
        return _not_lustre("getname", paths[0])
    for client in clients:
        print(f"{client.fsname}-{client.instance} {client.mount_point}")
    return 0


def _check(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in ("servers", "osts", "mds", "mgts", "all"):
        print("lfs check: you must specify one of: osts, mds, mgts, servers, all", file=sys.stderr)
        return 1
    status = 0
    for client in _chosen(arguments[1:]):
        for kind, target in client.targets():
            if arguments[0] in ("osts", "mds") and kind != {"osts": "osc", "mds": "mdc"}[arguments[0]]:
                continue
            name = f"{target}-{kind}-{client.instance}"
            if lustre.healthy():
                print(f"{name} active.")
            else:
                print(f"lfs check: error: check '{name}': Input/output error (5)", file=sys.stderr)
                status = errno.EIO
    return status


def _setstripe(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="lfs setstripe", allow_abbrev=False)
    parser.add_argument("-c", "--stripe-count", type=int)
    parser.add_argument("-S", "--stripe-size")
    parser.add_argument("-d", "--delete", action="store_true")
    parser.add_argument("paths", nargs="+")
    options = parser.parse_args(arguments)
    for path in options.paths:
        if lustre.client_of(path) is None:
            return _not_lustre("setstripe", path)
        if options.delete:
            os.removexattr(path, LAYOUT)
            continue
        old_count, old_size = _own_layout(path) or DEFAULT_LAYOUT
        count = old_count if options.stripe_count is None else options.stripe_count
        size = old_size if options.stripe_size is None else _bytes(options.stripe_size)
        if count < -1 or count > 2000:
            print(f"lfs setstripe: invalid stripe count '{count}'", file=sys.stderr)
            return errno.EINVAL
        if size % 65536:
            print(
                f"lfs setstripe: error: bad stripe_size {size}, must be an even multiple of 65536 bytes",
                file=sys.stderr,
            )
            return errno.EINVAL
        try:
            os.setxattr(path, LAYOUT, f"{count} {size}".encode())
        except OSError as error:
            print(f"lfs setstripe: setstripe error for '{path}': {error.strerror}", file=sys.stderr)
            return error.errno or 1
    return 0


def _bytes(text: str) -> int:
    unit = text[-1].lower()
    return int(text[:-1]) * SIZES[unit] if unit in SIZES else int(text)


def _own_layout(path: str) -> tuple[int, int] | None:
    try:
        count, size = os.getxattr(path, LAYOUT).decode().split()
    except OSError:
        return None
    return int(count), int(size)


def _layout(path: str, stop: str) -> tuple[int, int]:
    """A path's layout, or the one that it inherits from the nearest directory above, up to the mount point."""
    current = os.path.realpath(path)
    while True:
        own = _own_layout(current)
        if own:
            return own
        if current in (stop, "/"):
            return DEFAULT_LAYOUT
        current = str(Path(current).parent)


def _getstripe(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="lfs getstripe", allow_abbrev=False)
    parser.add_argument("-d", "--directory", action="store_true")
    parser.add_argument("-c", "--stripe-count", action="store_true")
    parser.add_argument("-S", "--stripe-size", action="store_true")
    parser.add_argument("paths", nargs="+")
    options = parser.parse_args(arguments)
    for path in options.paths:
        client = lustre.client_of(path)
        if client is None:
            return _not_lustre("getstripe", path)
        if not Path(path).exists():
            print(f"lfs getstripe: cannot open '{path}': No such file or directory", file=sys.stderr)
            return errno.ENOENT
        count, size = _layout(path, client.mount_point)
        if options.stripe_count or options.stripe_size:
            print(count if options.stripe_count else size)
        else:
            print(path)
            print(f"stripe_count:  {count} stripe_size:   {size} pattern:       raid0 stripe_offset: -1\n")
    return 0
