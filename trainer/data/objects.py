"""The object store as the last level: what the shared storage has lost or damaged is read from its copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medllm.object_store import open_store

if TYPE_CHECKING:
    from medllm.site.model import ObjectStore as Address


class S3Objects:
    """Copies of a data set's shards in a bucket; threads may read at once."""

    def __init__(self, address: Address, dataset: str) -> None:
        """Nothing is asked of the store yet.

        Raises:
            UserError: the credentials can't be read.
        """
        self._dataset = dataset
        self._store = open_store(address)

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Bytes of a shard.

        Raises:
            OSError: the store does not answer, or has no such bytes. The message holds no credentials.
        """
        import obstore

        try:
            return bytes(obstore.get_range(self._store, f"{self._dataset}/{shard}", start=offset, length=size))
        except Exception as error:  # its own kinds share no base with Python's
            raise OSError(f"the object store can't give {shard} ({type(error).__name__})") from None
