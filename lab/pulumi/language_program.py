"""Runs one Pulumi program with the SDK; the language host starts this file with `python -P` in a process of its own.

It imports nothing of this project: the program's own interpreter may not have it. The host writes what to run as one
JSON line on stdin and keeps the pipe open: its end means that the host is gone.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

# The exit status that tells the host that the error has been shown to the user.
ALREADY_SHOWN = 32


def main() -> int:
    """Run the program; 0 or `ALREADY_SHOWN`."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    pipe = os.fdopen(os.dup(0), "rb", buffering=0)
    work = json.loads(_first_line(pipe))
    threading.Thread(target=_end_with_host, args=(pipe,), daemon=True).start()
    # A program that reads stdin finds it empty, as under the genuine host.
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return _run(work)


def _run(work: dict[str, Any]) -> int:
    import asyncio
    import logging

    import grpc
    import pulumi
    import pulumi.runtime
    from pulumi import log
    from pulumi.errors import RunError

    # Tasks that fail are reported once by the SDK, not again by asyncio.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    program = Path(work["program"])
    sys.argv = [str(program), *work["arguments"]]
    sys.path.insert(0, str(program if program.is_dir() else program.parent))
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            project=work["project"], stack=work["stack"], monitor=work["monitor"], engine=work["engine"],
            parallel=work["parallel"], dry_run=work["dry_run"], organization=work["organization"],
            root_directory=work["root_directory"],
        )
    )  # fmt: skip
    pulumi.runtime.set_all_config(work["config"], work["secret_keys"])
    entry = program / "__main__.py" if program.is_dir() else program
    if not entry.is_file():
        log.error(f"no program at {entry}: give the folder of __main__.py as `main` in Pulumi.yaml")
        return ALREADY_SHOWN
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(lambda: _run_file(str(program))))
    except RunError as error:
        log.error(str(error))
    except grpc.RpcError as error:
        # An engine that is gone or going has said why; any other failure of a call has not.
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            log.error(f"RPC error: {error.details()}")
    except Exception as error:  # the program may raise anything
        log.error("Program failed with an unhandled exception:\n" + _program_trace(error))
    else:
        return 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return ALREADY_SHOWN


def _run_file(path: str) -> None:
    runpy.run_path(path, run_name="__main__")


def _program_trace(error: Exception) -> str:
    """The traceback without the frames of this file and of what runs the program."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [number for number, frame in enumerate(frames) if frame.filename.startswith("<frozen runpy>")]
    kept = frames[ours[-1] + 1 :] if ours else frames
    lines = traceback.format_list(kept) + traceback.format_exception_only(error)
    return "Traceback (most recent call last):\n" + "".join(lines)


def _first_line(pipe: Any) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(pipe.fileno(), 65536)
        if not part:
            sys.exit("the language host ended before it said what to run")
        line += part
    return line


def _end_with_host(pipe: Any) -> None:
    while os.read(pipe.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
