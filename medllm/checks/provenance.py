"""Whether a probe's binary is its vendor's own: the evidence axis.

A finding is *measured* only if the binary is an untouched file of an installed package, that very version is offered
by configured repositories alone whose signing keys are all in the lock's vendor list, and apt checks their signatures.
Whatever is missing or unclear on that way makes it *simulated*: nobody has to declare what a stand-in is.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medllm.checks.base import Probe
from medllm.parsers.apt import Source, parse_policy, parse_sources
from medllm.parsers.openpgp import fingerprints
from medllm.verdict import Evidence

NAME = "provenance"
_FINGERPRINT = re.compile(r"^[0-9A-Fa-f]{40}!?$")

_SCRIPT = r"""
all=
for b in {binaries}; do
  p=$(command -v "$b" 2>/dev/null) || {{ printf 'binary\t%s\n' "$b"; continue; }}
  r=$(readlink -f "$p")
  k=$({{ dpkg -S "$r" || dpkg -S "${{r#/usr}}"; }} 2>/dev/null | grep -v '^diversion' | head -n1 | cut -d: -f1)
  m=$(md5sum "$r" | cut -d' ' -f1)
  w=$(cat "/var/lib/dpkg/info/$k.md5sums" "/var/lib/dpkg/info/$k:amd64.md5sums" 2>/dev/null |
    awk -v a="${{r#/}}" -v b="${{r#/usr/}}" '$2 == a || $2 == b {{ print $1; exit }}')
  printf 'binary\t%s\t%s\t%s\t%s\t%s\n' "$b" "$r" "$k" "$m" "$w"
  case " $all " in *" $k "*) ;; *) all="$all $k" ;; esac
done
for k in $all; do printf 'policy\t%s\t%s\n' "$k" "$(apt-cache policy "$k" | base64 -w0)"; done
for f in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
  if [ -f "$f" ]; then printf 'source\t%s\t%s\n' "$f" "$(base64 -w0 "$f")"; fi
done
for f in $(grep -ohE '/[A-Za-z0-9._/+-]+[.](gpg|asc|pgp)' /etc/apt/sources.list /etc/apt/sources.list.d/* | sort -u); do
  if [ -f "$f" ]; then printf 'key\t%s\t%s\n' "$f" "$(base64 -w0 "$f")"; fi
done
"""


def provenance_probe(binaries: Iterable[str]) -> Probe:
    """One probe that tells where these binaries of a host come from."""
    names = " ".join(shlex.quote(name) for name in sorted(set(binaries)))
    return Probe(NAME, _SCRIPT.format(binaries=names).strip(), deadline_s=20)


@dataclass(frozen=True, slots=True)
class Binary:
    path: str
    package: str
    md5: str
    recorded_md5: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What one host says of its binaries, packages, source lists and key files."""

    binaries: Mapping[str, Binary | None]
    policies: Mapping[str, str]
    sources: Mapping[str, str]
    keys: Mapping[str, bytes]


def parse_facts(text: str) -> Facts:
    """Read the probe's output. Raises ValueError with the line."""
    binaries: dict[str, Binary | None] = {}
    policies: dict[str, str] = {}
    sources: dict[str, str] = {}
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        kind, *fields = line.split("\t")
        try:
            if kind == "binary" and len(fields) == 1:
                binaries[fields[0]] = None
            elif kind == "binary":
                name, path, package, md5, recorded = fields
                binaries[name] = Binary(path, package, md5, recorded)
            else:
                name, encoded = fields
                content = base64.b64decode(encoded, validate=True)
                if kind == "policy":
                    policies[name] = content.decode()
                elif kind == "source":
                    sources[name] = content.decode()
                elif kind == "key":
                    keys[name] = content
                else:
                    raise ValueError(kind)
        except (ValueError, binascii.Error):
            raise ValueError(f"provenance, line {number}: {line[:60]!r} is not understood") from None
    if not binaries:
        raise ValueError("provenance, line 1: the output is empty")
    return Facts(binaries, policies, sources, keys)


def evidence_of(name: str, facts: Facts, vendor_keys: Iterable[str]) -> tuple[Evidence, str]:
    """The evidence that findings of this binary are, and why."""
    try:
        return Evidence.MEASURED, _vendor(name, facts, frozenset(vendor_keys))
    except ValueError as error:
        return Evidence.SIMULATED, str(error)


def _vendor(name: str, facts: Facts, vendor_keys: frozenset[str]) -> str:
    binary = facts.binaries.get(name)
    if binary is None:
        raise ValueError(f"{name} is not on this host")
    if not binary.package:
        raise ValueError(f"{binary.path} belongs to no package")
    if not binary.md5 or binary.md5 != binary.recorded_md5:
        raise ValueError(f"{binary.path} is not as package {binary.package} installed it")
    version, origins = parse_policy(facts.policies.get(binary.package, ""))
    if not origins:
        raise ValueError(f"no configured repository offers {binary.package} {version}")
    sources = [source for path, text in facts.sources.items() for source in _readable(path, text)]
    for origin in origins:
        offering = [source for source in sources if source.offers(origin)]
        if not offering:
            raise ValueError(f"no source list names {origin.url} {origin.suite}")
        for source in offering:
            for key in _signers(source, facts):
                if key not in vendor_keys:
                    raise ValueError(f"{binary.package} comes from {origin.url}, whose key {key} is no vendor's")
    return f"{binary.package} {version} from {origins[0].url}, signed by a vendor's key"


def _readable(path: str, text: str) -> tuple[Source, ...]:
    if path.endswith(".sources"):
        return parse_sources(text, deb822=True)
    return parse_sources(text, deb822=False) if path.endswith(".list") else ()


def _signers(source: Source, facts: Facts) -> tuple[str, ...]:
    """Fingerprints of every key whose signature this source takes."""
    if source.unchecked:
        raise ValueError(f"apt does not check the signatures of {source.url}")
    if not source.signed_by:
        raise ValueError(f"{source.url} takes any trusted key (no Signed-By)")
    found: list[str] = []
    for item in source.signed_by:
        if "BEGIN PGP" in item:
            found += fingerprints(item.encode())
        elif item.startswith("/"):
            if item not in facts.keys:
                raise ValueError(f"{source.url} is signed by {item}, which can't be read")
            found += fingerprints(facts.keys[item])
        elif _FINGERPRINT.match(item):
            found.append(item.rstrip("!").upper())
        else:
            raise ValueError(f"{source.url}: Signed-By {item!r} is not understood")
    return tuple(found)
