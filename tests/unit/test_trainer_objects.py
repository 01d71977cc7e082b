"""The object store as the loader's last level, against a real S3 server."""

from __future__ import annotations

from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from medllm.errors import UserError
from medllm.site.model import ObjectStore
from tests.s3_server import CREDENTIALS, ID, SECRET
from tests.trainer_helpers import tiny_config, write_dataset
from trainer.data.cache import OBJECTS, SHARED, MemoryCache, SampleReader
from trainer.data.gate import open_dataset
from trainer.data.objects import S3Objects

pytestmark = pytest.mark.slow


def test_a_lost_shard_is_read_from_its_copy(endpoint: str, tmp_path: Path) -> None:
    directory, config = tmp_path / "notes", tiny_config()
    data = open_dataset(directory, write_dataset(directory), config)
    (tmp_path / "credentials").write_text(CREDENTIALS)
    writer = S3Store(
        "copies", endpoint=endpoint, access_key_id=ID, secret_access_key=SECRET, client_options={"allow_http": True}
    )
    for shard in {entry.shard for entry in data.train.entries}:
        obstore.put(writer, f"data/notes/{shard}", (directory / shard).read_bytes())
    address = ObjectStore(url="s3://copies/data", endpoint=endpoint, credentials_file=str(tmp_path / "credentials"))
    whole = [data.train.read(number).text for number in range(len(data.train))]
    (directory / data.train.entries[0].shard).write_bytes(b"")
    reader = SampleReader(data.train, MemoryCache(0), None, S3Objects(address, "notes"))
    found = [reader.read(number) for number in range(len(data.train))]
    assert [sample.text if sample else None for sample in found] == whole
    gone = sum(entry.shard == data.train.entries[0].shard for entry in data.train.entries)
    assert reader.counts.hits == {OBJECTS: gone, SHARED: len(whole) - gone}

    elsewhere = SampleReader(data.train, MemoryCache(0), None, S3Objects(address, "another"))
    assert elsewhere.read(0) is None
    with pytest.raises(OSError, match="can't give") as caught:
        S3Objects(address, "another").read("shards/none.tar", 0, 10)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [(None, "can't be read"), ("{}", "AWS format"), ("[other]\na=1\n", "AWS format"), ("[default]\na = 1\n", "lack")],
)
def test_credentials_that_are_none_are_refused_without_being_quoted(
    tmp_path: Path, content: str | None, rule: str
) -> None:
    path = tmp_path / "credentials"
    if content is not None:
        path.write_text(content)
    address = ObjectStore(url="s3://copies", credentials_file=str(path))
    with pytest.raises(UserError, match=rule) as caught:
        S3Objects(address, "notes")
    assert caught.value.problems[0].file == path
