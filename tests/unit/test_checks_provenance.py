"""Evidence is measured only on the whole way from the binary to a vendor's key; each broken step makes it simulated."""

from __future__ import annotations

import base64
import subprocess

import pytest

from medllm.checks.provenance import evidence_of, parse_facts, provenance_probe
from medllm.verdict import Evidence
from tests.unit.acceptance_inputs import KEYRING, VENDOR, facts

TOOL = facts(["tool"])


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def decoded(kind: str) -> str:
    line = next(line for line in TOOL.splitlines() if line.startswith(kind + "\t"))
    return base64.b64decode(line.split("\t")[2]).decode()


def edited(kind: str, old: str, new: str) -> str:
    """The facts in which the content of one kind of line is edited."""
    content = decoded(kind)
    assert old in content
    return TOOL.replace(encoded(content), encoded(content.replace(old, new)))


POLICY, SOURCE = decoded("policy"), decoded("source")


def test_the_whole_way_is_measured() -> None:
    evidence, reason = evidence_of("tool", parse_facts(TOOL), [VENDOR])
    assert evidence is Evidence.MEASURED
    assert "vendor-tools 1.0-1 from https://vendor.example/apt" in reason


BROKEN = {
    "not installed": ("binary\ttool\n", "not on this host"),
    "no package": (TOOL.replace("\tvendor-tools\t00", "\t\t00"), "belongs to no package"),
    "another file": (TOOL.replace("0" * 32, "1" * 32, 1), "not as package"),
    "no recorded hash": (TOOL.replace("\t" + "0" * 32 + "\n", "\t\n", 1), "not as package"),
    "no policy": (
        "\n".join(line for line in TOOL.splitlines() if not line.startswith("policy")),
        "no installed version",
    ),
    "no repository has it": (
        edited("policy", "        500 https://vendor.example/apt stable/main amd64 Packages\n", ""),
        "no configured repository",
    ),
    "a second repository has it too": (
        edited(
            "policy", "        100 /var", "        500 http://other.example x/main amd64 Packages\n        100 /var"
        ),
        "no source list names http://other.example",
    ),
    "no source list": (
        "\n".join(line for line in TOOL.splitlines() if not line.startswith("source")),
        "no source list names",
    ),
    "source disabled": (edited("source", "Types: deb", "Enabled: no\nTypes: deb"), "no source list names"),
    "other suite": (edited("source", "Suites: stable", "Suites: testing"), "no source list names"),
    "any trusted key": (edited("source", "Signed-By: /etc/apt/keyrings/vendor.gpg\n", ""), "takes any trusted key"),
    "signatures off": (edited("source", "Types: deb", "Trusted: yes\nTypes: deb"), "does not check the signatures"),
    "key file gone": ("\n".join(line for line in TOOL.splitlines() if not line.startswith("key")), "can't be read"),
    "key file garbled": (TOOL.replace(encoded(KEYRING), encoded(b"no key")), "keyring"),
    "a foreign fingerprint": (
        edited("source", "/etc/apt/keyrings/vendor.gpg", "A" * 40),
        "no vendor's",
    ),
    "an unclear Signed-By": (edited("source", "/etc/apt/keyrings/vendor.gpg", "vendor"), "not understood"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_way_is_simulated(case: str) -> None:
    text, why = BROKEN[case]
    evidence, reason = evidence_of("tool", parse_facts(text), [VENDOR])
    assert (evidence, why in reason) == (Evidence.SIMULATED, True), reason


def test_a_keyring_with_a_second_key_is_no_vendors() -> None:
    other = bytearray(KEYRING)
    other[20] ^= 1  # another key body, so another fingerprint
    both = TOOL.replace(encoded(KEYRING), encoded(KEYRING + bytes(other)))
    assert evidence_of("tool", parse_facts(both), [VENDOR])[0] is Evidence.SIMULATED


def test_no_vendor_keys_measure_nothing() -> None:
    assert evidence_of("tool", parse_facts(TOOL), [])[0] is Evidence.SIMULATED
    assert evidence_of("other", parse_facts(TOOL), [VENDOR])[0] is Evidence.SIMULATED


@pytest.mark.parametrize("text", ["", "\n", "binary\n", "odd\tx\ty\n", "policy\tx\t***\n", "binary\ta\tb\n"])
def test_unclear_facts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="provenance, line"):
        parse_facts(text)


def test_the_probe_runs_here() -> None:
    """The script itself, on this machine: dpkg knows the shell; nobody knows the other name."""
    probe = provenance_probe(["sh", "no-such-tool-here"])
    answer = subprocess.run(["sh", "-c", probe.command], capture_output=True, text=True, timeout=30, check=True)
    found = parse_facts(answer.stdout)
    assert found.binaries["no-such-tool-here"] is None
    shell = found.binaries["sh"]
    assert shell is not None
    assert shell.package == "dash"
    assert shell.md5 == shell.recorded_md5
    assert "dash" in found.policies
