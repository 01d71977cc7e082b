"""Put the signing keys of apt repositories in place, none of them unseen.

What a node fetched is judged here, on the controller: a minimal node has no `gpg`. The node then gets what was judged,
not what it fetched, so there is no second file to exchange. One bad key, and none of the step is written.
"""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from medllm.parsers.openpgp import trusted_keys

_DIRECTORY = "/etc/apt/keyrings"
_FETCH = """\
new=$(mktemp)
trap 'rm -f "$new"' EXIT
/usr/lib/apt/apt-helper -qq download-file {url} "$new" >&2 && base64 -w0 "$new"
"""


class ActionModule(ActionBase):
    """`signing_keys: {repositories}`; see plugins/modules/signing_keys.py for the options."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {"repositories": {"type": "list", "elements": "dict", "required": True}}
        )
        files, problems = {}, []
        for repository in options["repositories"]:
            try:
                files[f"{_DIRECTORY}/{repository['name']}.asc"] = self._keys_of(repository)
            except ValueError as error:
                problems.append(f"{repository['name']}: {error}")
        if problems:
            return {**result, "failed": True, "msg": f"No signing key was written. {' '.join(problems)}"}
        task = self._task.copy()
        task.args = {"files": files}
        write = self._shared_loader_obj.action_loader.get(
            "written_files", task=task, connection=self._connection, play_context=self._play_context,
            loader=self._loader, templar=self._templar, shared_loader_obj=self._shared_loader_obj,
        )  # fmt: skip
        written: dict[str, Any] = write.run(task_vars=task_vars)
        return written

    def _keys_of(self, repository: dict[str, Any]) -> str:
        """The repository's keys, armored. Raises ValueError: with what is wrong and what to do."""
        url, file, trusted = (repository.get(key) for key in ("key_url", "key_file", "key_fingerprints"))
        if file:
            try:
                return trusted_keys(Path(file).expanduser().read_bytes(), None)
            except OSError as error:
                raise ValueError(
                    f"key_file {file} can't be read on this controller ({error.strerror}). "
                    "Fix: put the checked key there."
                ) from None
            except ValueError as error:
                raise ValueError(f"{file}: {error}. Fix: export public keys alone into it.") from None
        if not url or not trusted:
            raise ValueError("no trusted key. Fix: declare key_file, or key_url with key_fingerprints.")
        script = _FETCH.format(url=shlex.quote(url))
        ran = self._low_level_execute_command('LC_ALL=C /bin/sh -c "$(cat)" </dev/null', in_data=script.encode())
        if ran["rc"] != 0:
            told = ran["stderr"].strip() or f"exit code {ran['rc']}"
            raise ValueError(f"{url} can't be fetched ({told}). Fix: let the node reach it, or declare key_file.")
        try:
            return trusted_keys(base64.b64decode(ran["stdout"]), trusted)
        except ValueError as error:
            raise ValueError(
                f"{url}: {error}. Fix: ask the vendor which is right before you trust it with key_fingerprints."
            ) from None
