"""A machine's power through its BMC: Redfish over TLS, standard library only.

Only reset types that the BMC itself lists are asked for (DSP0266, AllowableValues or ActionInfo): BMCs lack some, and
tools that put another one in place of a missing one have rebooted gracefully where force was meant.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Literal

# In the order of preference; "ForceOff+On" is both, one after the other, with the power seen off between them.
ResetPlan = Literal["On", "PushPowerButton", "PowerCycle", "ForceRestart", "ForceOff+On"]
CYCLE: tuple[ResetPlan, ...] = ("PowerCycle", "ForceOff+On", "ForceRestart")
RESTART: tuple[ResetPlan, ...] = ("ForceRestart", "PowerCycle", "ForceOff+On")
SWITCH_ON: tuple[ResetPlan, ...] = ("On", "PushPowerButton")

_REQUEST_S = 40.0  # a BMC may answer only when the machine has stopped
_ACTION = "#ComputerSystem.Reset"
_LIMIT = 1 << 20


class RedfishError(Exception):
    """The BMC does not answer, refuses, or can't do what is needed; says what to do about it."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the login elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Bmc:
    """One machine's BMC. `url` is its ComputerSystem resource, as hosts.yml declares it."""

    def __init__(self, url: str, credentials_file: Path, ca_file: Path | None) -> None:
        """Raises RedfishError: the login or the certificates can't be read."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "https" or not parts.netloc:
            raise RedfishError(f"{url!r} is no https address of a ComputerSystem. Fix: correct bmc_url in hosts.yml")
        self._base, self._path = f"https://{parts.netloc}", parts.path.rstrip("/")
        try:
            login = json.loads(credentials_file.expanduser().read_text(encoding="utf-8"))
            pair = f"{login['username']}:{login['password']}"
        except OSError as error:
            raise RedfishError(f"{credentials_file}: the BMCs' login can't be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError):
            raise RedfishError(f'{credentials_file}: not {{"username": …, "password": …}}') from None
        self._login = "Basic " + base64.b64encode(pair.encode()).decode()
        try:
            context = ssl.create_default_context(cafile=str(ca_file.expanduser()) if ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise RedfishError(f"{ca_file}: the BMCs' certificates can't be read ({error})") from None
        # No proxy of the environment: a BMC is on the management network.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect()
        )

    def power(self) -> str:
        """The PowerState: On, Off, PoweringOn, PoweringOff. Raises RedfishError."""
        return str(self._system().get("PowerState", "unknown"))

    def reset(self, wanted: tuple[ResetPlan, ...], *, deadline_s: float = 90.0) -> ResetPlan:
        """Do the first of these that the BMC lists; returns it. Raises RedfishError."""
        system = self._system()
        action = system.get("Actions", {}).get(_ACTION, {})
        allowed = self._allowed(action)
        for plan in wanted:
            kinds = plan.split("+")
            if not set(kinds) <= allowed:
                continue
            target = str(action.get("target", f"{self._path}/Actions/ComputerSystem.Reset"))
            for kind in kinds:
                self._request(target, {"ResetType": kind})
                if kind == "ForceOff":
                    self._wait_for("Off", deadline_s)
            return plan
        raise RedfishError(
            f"the BMC allows {', '.join(sorted(allowed)) or 'no reset at all'}; needed is one of {', '.join(wanted)}"
        )

    def _system(self) -> dict[str, Any]:
        return self._request(self._path)

    def _allowed(self, action: dict[str, Any]) -> set[str]:
        """What the BMC says that it can do, inline or in its ActionInfo; nothing is taken for granted."""
        values = action.get("ResetType@Redfish.AllowableValues")
        if values is None and "@Redfish.ActionInfo" in action:
            described = self._request(str(action["@Redfish.ActionInfo"]))
            for parameter in described.get("Parameters", []):
                if parameter.get("Name") == "ResetType":
                    values = parameter.get("AllowableValues")
        return set(values or ())

    def _wait_for(self, state: str, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while (found := self.power()) != state:
            if time.monotonic() > end:
                raise RedfishError(f"the power is {found} and not {state}, {deadline_s:g} s after it was asked for")
            time.sleep(1.0)

    def _request(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if not path.startswith("/"):
            raise RedfishError(f"the BMC names another server: {path[:100]!r}")
        request = urllib.request.Request(
            self._base + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self._login, "Accept": "application/json", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=_REQUEST_S) as answer:
                text = answer.read(_LIMIT)
        except urllib.error.HTTPError as error:
            raise RedfishError(f"the BMC answers {error.code} to {path}: {_message(error)}") from None
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            raise RedfishError(f"the BMC at {self._base} does not answer: {reason}") from None
        if not text.strip():
            return {}
        try:
            data = json.loads(text)
        except ValueError:
            raise RedfishError(f"the BMC's answer to {path} is no JSON") from None
        return data if isinstance(data, dict) else {}


def _message(error: urllib.error.HTTPError) -> str:
    """The BMC's own words, without the login."""
    try:
        told = json.loads(error.read(_LIMIT))["error"]
        extended = told.get("@Message.ExtendedInfo") or [{}]
        return str(extended[0].get("Message") or told.get("message") or error.reason)[:300]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return str(error.reason)
