"""Hits are cut into messages by their number and their bytes; scores into the range of cosines."""

from __future__ import annotations

import pytest

from search_server.milvus.vector_search import _cosine
from search_server.search.nearest import rank
from search_server.search.paging import Chunks
from search_server.types.message_sizes import message_bytes
from search_server.types.searches import Hit
from sentinel_store.items import Row


def hits(*texts: str) -> list[Hit]:
    return rank([(Row(text, "d", "", text, {}), 1.0) for text in texts])


def texts(chunk: list[Hit]) -> str:
    return "".join(hit.row.text for hit in chunk)


def test_chunks_are_cut_by_their_number_across_blocks() -> None:
    chunks = Chunks(3, 1 << 20)
    assert [texts(chunk) for chunk in chunks.add(hits("a", "b"))] == []
    assert [texts(chunk) for chunk in chunks.add(hits("c", "d", "e", "f", "g"))] == ["abc", "def"]
    assert texts(chunks.rest) == "g"


def test_no_hit_is_in_a_chunk_and_in_the_rest() -> None:
    chunks = Chunks(2, 1 << 20)
    first = next(chunks.add(hits("a", "b", "c")))
    assert texts(first) == "ab"
    assert chunks.rest == []


def test_chunks_are_cut_by_their_bytes_but_have_a_hit_at_least() -> None:
    [small] = hits("a")
    chunks = Chunks(100, 2 * message_bytes(small))
    found = [texts(chunk) for chunk in chunks.add(hits("a", "b", "c", "d" * 1000, "e"))]
    assert found == ["ab", "c", "d" * 1000]
    assert texts(chunks.rest) == "e"


@pytest.mark.parametrize(
    ("distance", "score"),
    [(0.5, 0.5), (-1.0, -1.0), (1.0000001, 1.0), (-1.0000001, -1.0), (float("inf"), 1.0)],
)
def test_rounding_takes_no_score_out_of_its_range(distance: float, score: float) -> None:
    assert _cosine({"distance": distance}) == score
