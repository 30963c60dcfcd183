"""The gateway's Milvus: rows, as everybody stores them, and every way to search them."""

from __future__ import annotations

from search_server.milvus.aliases import Aliases
from search_server.milvus.full_text import FullText
from search_server.milvus.vector_search import Candidates, VectorSearch
from sentinel_core.calls import Deadline
from sentinel_store.collections import CollectionInfo
from sentinel_store.milvus.store import MilvusStore


class SearchStore(MilvusStore):
    """Use from one event loop.

    Attributes:
        aliases: Second names of collections.
        candidates: Finds what the gateway ranks itself.
        full_text: Searches words.
        vectors: Searches vectors.
    """

    def __init__(self, uri: str, token: str, threads: int) -> None:
        super().__init__(uri, token, threads)
        self.aliases = Aliases(self.connection)
        self.candidates = Candidates(self.connection)
        self.full_text = FullText(self.connection)
        self.vectors = VectorSearch(self.connection, self.count)

    async def create_collection(self, info: CollectionInfo, deadline: Deadline) -> None:
        if info.full_text:
            await self.full_text.check_supported(deadline)
        await super().create_collection(info, deadline)
