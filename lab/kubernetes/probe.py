"""Whether an API server answers, and what is in the way when it does not."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from lab.host import LabError
from lab.kubernetes.kubelet.client import ApiError, Client, Unreachable

_REQUEST_S = 3.0
_PAUSE_S = 0.1
# Pods of a namespace are refused until the controller manager has made this one.
_DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"


def not_ready(server: str, authority: Path) -> str | None:
    """Why the API server is not ready, or None when it is. Anybody may ask."""
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(authority)))
    # The lab is on this machine: no proxy that the environment names leads there.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)
    try:
        with opener.open(f"{server}/readyz", timeout=_REQUEST_S) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            failed = [line for line in error.read().decode(errors="replace").splitlines() if line.startswith("[-]")]
        return f"HTTP {error.code} {' '.join(failed)}".strip()
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None


def no_accounts(kubeconfig: Path) -> str | None:
    """Why no pod can be made in namespace default yet, or None when one can."""
    try:
        Client(kubeconfig).get(_DEFAULT_ACCOUNT)
    except (ApiError, Unreachable) as error:
        return str(error)
    return None


def wait(what: str, obstacle: Callable[[], str | None], seconds: float) -> None:
    """Ask until `obstacle` returns None.

    Raises:
        LabError: it did not within `seconds`; says what was in the way. Whatever `obstacle` raises.
    """
    deadline = time.monotonic() + seconds
    while reason := obstacle():
        if time.monotonic() > deadline:
            raise LabError(f"{what} is not ready after {seconds:.0f} s: {reason}")
        time.sleep(_PAUSE_S)
