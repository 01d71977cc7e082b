"""What a shell needs so that `pulumi up` works: programs, Pulumi's home, kubeconfig, passphrase."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.pulumi.install import install, pulumi_home
from medllm.errors import user_error
from medllm.files import write_atomic

_PLUGINS = "pulumi"


@dataclass(frozen=True, slots=True)
class Environment:
    """`directory` is where `prepare` laid it out; `kubeconfig` says who acts, and where; `passphrase_file` has what
    Pulumi's state is encrypted with.
    """

    directory: Path
    kubeconfig: Path
    passphrase_file: Path

    @property
    def programs(self) -> Path:
        """pulumi with its plugins, and kubectl."""
        return self.directory / _PLUGINS / "bin"

    def variables(self) -> dict[str, str]:
        """All but PATH."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "PULUMI_HOME": str(pulumi_home(self.directory / _PLUGINS)),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.passphrase_file),
            # `refresh` and `destroy` go by this kubeconfig, too, not by the one that the state remembers.
            "PULUMI_RUN_PROGRAM": "true",
            # Nothing is fetched: what is not here is an error that says so.
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }

    def over(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` with these variables, for a child process."""
        path = f"{self.programs}{os.pathsep}{base.get('PATH', os.defpath)}"
        return {**base, **self.variables(), "PATH": path}

    def shell(self) -> str:
        """Lines for `eval` in a POSIX shell."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.variables().items()]
        return "\n".join([f'export PATH={shlex.quote(str(self.programs))}:"$PATH"', *lines])


def prepare(directory: Path, kubeconfig: Path, passphrase_file: Path, binaries: Mapping[str, Path]) -> Environment:
    """Lay out programs and plugins in `directory`, and a passphrase where there is none: state that is encrypted with
    the one that is there can't be read with another.

    `binaries` maps `pulumi` and `kubectl` to files.
    """
    made = Environment(directory, kubeconfig, passphrase_file)
    install(directory / _PLUGINS, binaries["pulumi"])
    link = made.programs / "kubectl"
    link.unlink(missing_ok=True)
    link.symlink_to(binaries["kubectl"])
    if not passphrase_file.exists():
        passphrase_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(passphrase_file, secrets.token_urlsafe(24) + "\n", mode=0o600)
    return made


def read(directory: Path, kubeconfig: Path, passphrase_file: Path) -> Environment:
    """The environment that `prepare` laid out.

    Raises:
        UserError: it did not.
    """
    found = Environment(directory, kubeconfig, passphrase_file)
    if not (found.programs / "pulumi").exists() or not passphrase_file.exists() or not kubeconfig.exists():
        raise user_error("the lab has no Kubernetes", "medllm lab kubernetes up")
    return found
