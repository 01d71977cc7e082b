"""The index of a data set: one line of JSON a sample, so that a reader needs no look at the tar files' headers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from medllm.arrays import DTYPES
from medllm.files import write_atomic

INDEX = "index.jsonl"
TEXT, IMAGE, WAVEFORM, EEG = "txt", "image.blosc", "ecg.blosc", "eeg.blosc"
_VOLUME = "volume-{}.blosc"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One sample.

    split: train or heldout
    shard: the tar file, relative to the data set
    offset, size: the stretch of the shard in which all its members lie, bytes
    members: extension → (offset in the shard, size), bytes
    arrays: extension → (dtype as NumPy writes it, shape)
    tokens: of its text, with begin and end mark
    xxh3: 16 hexadecimal digits over the stretch, against damage (the signed manifest is against forgery)
    """

    key: str
    split: str
    shard: str
    offset: int
    size: int
    members: dict[str, tuple[int, int]]
    arrays: dict[str, tuple[str, tuple[int, ...]]]
    tokens: int
    xxh3: str

    def line(self) -> str:
        """As `INDEX` holds it, with its line end."""
        return json.dumps(asdict(self), sort_keys=True) + "\n"

    @classmethod
    def parse(cls, line: str) -> IndexEntry:
        """The reverse of `line`.

        Raises:
            ValueError: not such a line; the message names the field.
        """
        data = json.loads(line)
        if not isinstance(data, dict) or data.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("the fields are not those of an index")
        try:
            entry = cls(
                str(data["key"]), str(data["split"]), str(data["shard"]), int(data["offset"]), int(data["size"]),
                {str(kind): (int(begin), int(size)) for kind, (begin, size) in data["members"].items()},
                {str(kind): (str(dtype), tuple(map(int, shape))) for kind, (dtype, shape) in data["arrays"].items()},
                int(data["tokens"]), str(data["xxh3"]),
            )  # fmt: skip
        except (TypeError, AttributeError):
            raise ValueError("a field is of another type") from None
        entry._check()
        return entry

    def _check(self) -> None:
        if self.offset < 0 or self.size <= 0 or self.tokens < 1:
            raise ValueError("offset, size or tokens is out of range")
        for kind, (begin, size) in self.members.items():
            if begin < self.offset or size < 0 or begin + size > self.offset + self.size:
                raise ValueError(f"the member {kind} lies outside its sample")
        if TEXT not in self.members:
            raise ValueError(f"there is no .{TEXT}")
        for kind, (dtype, shape) in self.arrays.items():
            if kind not in self.members or dtype not in DTYPES or not shape or min(shape) < 1:
                raise ValueError(f"the array {kind} is impossible")


def volume_member(number: int) -> str:
    """The extension of a sample's volume `number`, from 0."""
    return _VOLUME.format(number)


def checksum(stretch: bytes | memoryview) -> str:
    """XXH3-64 as 16 hexadecimal digits: some 20 GB/s, so that each read can be checked."""
    digest: Any = xxhash.xxh3_64_hexdigest(stretch)
    return str(digest)


def write_index(directory: Path, entries: Iterable[IndexEntry]) -> None:
    """The index of the data set in `directory`, whole or not at all."""
    write_atomic(directory / INDEX, "".join(entry.line() for entry in entries))
