"""Rerank the best candidates of a search: diverse, grouped, or fused with a text ranking.

Candidates are fetched without their rows; the rows of the hits come last. Ties are ordered by id.
If more candidates tie than Milvus returns, Milvus chooses among them.

`distinct`, `diverse` and `grouped` are pure. They take candidates best first and return indices
into them, in the order of the result. n is the number of candidates, at most some thousand; d the
length of a vector; vectors have length 1, so a dot product is a cosine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable, Sequence
from dataclasses import replace

import numpy as np

from search_server.milvus.row_memory import RowMemory
from search_server.milvus.search_store import SearchStore
from search_server.search.nearest import NearestHits
from search_server.search.paging import JITTER, START, Position
from search_server.types.queries import Hybrid, Query, SearchSpec
from search_server.types.searches import Candidate, Hit, ScoredId, Search
from sentinel_core.calls import Deadline
from sentinel_core.errors import FailedPrecondition, InvalidArgument
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Kind
from sentinel_store.milvus import schema
from sentinel_store.values import FieldType, FloatArray

# Candidates for diversity and groups.
_MAX_CANDIDATES = 1_000
_MIN_CANDIDATES = 64
# A search for k hits looks at this many candidates for each hit, then at four times as many, until
# enough are left.
_OVERFETCH = 4
# Candidates of each ranking that is fused. Fixed, since more of them would change the order. Rank
# 500 of one ranking weighs a ninth of its first.
_FUSED = 500
# Extra hits, which replace those that are deleted meanwhile.
_SPARE = 32
_MAX_TEXT_BYTES = 60_000
_GROUPABLE = (FieldType.STRING, FieldType.INT64, FieldType.BOOL)
# In float32 the cosine of equal vectors may be a little below 1; twice the loss of 4,096 elements.
_ROUNDING = 1e-6


class Reranker:
    """Fetches hits as `NearestHits` does, in another order. Stateless."""

    def __init__(self, store: SearchStore, retrieval: NearestHits, row_memory: RowMemory) -> None:
        self._row_memory = row_memory
        self._store = store
        self._retrieval = retrieval

    async def check(self, spec: SearchSpec, collection: CollectionInfo, deadline: Deadline) -> None:
        """Check that the collection and this Milvus support what a search requires.

        Raises:
            InvalidArgument: The grouping field does not exist or has the wrong type; the text is
                missing or too long.
            FailedPrecondition: The collection or Milvus cannot search text.
        """
        _check_grouping(spec, collection)
        if spec.hybrid is None:
            return
        _text_of(spec.hybrid, spec.query)
        if not collection.full_text:
            # Tell which of the two it is: this Milvus cannot, or the collection has no such field.
            await self._store.full_text.check_supported(deadline)
            raise FailedPrecondition(
                "FULL_TEXT_MISSING",
                f"collection {collection.name} has no field that is full_text; "
                "declare one in a new collection, or leave full_text and hybrid out",
                collection=collection.name,
            )

    async def blocks(
        self, search: Search, count: int, after: Position = START
    ) -> AsyncGenerator[list[Hit], None]:
        """Yield up to `count` hits that follow `after`, in blocks of at most 500.

        A hit's score is its cosine; of a hybrid search, the fused score.

        Raises:
            SentinelError: Milvus does not answer.
        """
        if search.spec.hybrid is not None:
            ranking = await self._fused(search, search.spec.hybrid, after)
        else:
            ranking = await self._diversified(search, count, after)
        collection, deadline = search.selection.collection, search.selection.deadline
        delivered = taken = 0
        while delivered < count and taken < len(ranking):
            most = min(self._row_memory.at_once(collection), count - delivered)
            part = ranking[taken : taken + most]
            taken += len(part)
            async with self._row_memory.share(collection, len(part), deadline) as share:
                block = await self._retrieval.with_rows(search, part, after.rank + delivered)
                self._row_memory.fetched(share)
                delivered += len(block)
                yield block

    async def _fused(self, search: Search, hybrid: Hybrid, after: Position) -> list[ScoredId]:
        """Return all that follows in the fusion of the vector ranking and the text ranking."""
        with self._retrieval.stage(search, "milvus_hybrid_search"):
            by_vector, by_text = await asyncio.gather(
                self._vector_ranking(search, hybrid), self._text_ranking(search, hybrid)
            )
        fused = fuse(
            [(by_vector, hybrid.vector_weight), (by_text, hybrid.text_weight)], hybrid.rrf_k
        )
        return fused[after.rank :]

    async def _vector_ranking(self, search: Search, hybrid: Hybrid) -> list[str]:
        if hybrid.vector_weight == 0:  # it would not change the result
            return []
        found = await self._candidates(search, _FUSED)
        return [candidate.id for candidate in found if candidate.score >= search.spec.min_score]

    async def _text_ranking(self, search: Search, hybrid: Hybrid) -> list[str]:
        if hybrid.text_weight == 0:
            return []
        text = _text_of(hybrid, search.spec.query)
        return await self._store.full_text.rank(search.selection, text, limit=_FUSED)

    async def _diversified(self, search: Search, count: int, after: Position) -> list[ScoredId]:
        """Return what follows in the diverse and grouped ranking: `count`, more, or all there is.

        If more candidates only add hits at the end of the ranking, begin with few candidates. A
        position is then a score, since two searches may find different candidates. Otherwise use
        the most candidates, and a position is a rank.
        """
        end = after.rank + count + _SPARE
        adds_at_end = _adds_at_end(search.spec)
        limit = _MAX_CANDIDATES
        if adds_at_end:
            limit = min(limit, max(_MIN_CANDIDATES, _OVERFETCH * (after.rank + count)))
        while True:
            with self._retrieval.stage(search, "milvus_search"):
                found = await self._candidates(search, limit)
            least = search.spec.min_score
            candidates = [candidate for candidate in found if candidate.score >= least]
            # In a thread: with the most candidates this takes some tenths of a second.
            ranking = await asyncio.to_thread(_ranked, search.spec, candidates, end)
            following = after.remaining(ranking) if adds_at_end else ranking[after.rank :]
            if len(following) >= count or limit == _MAX_CANDIDATES:
                return following
            # An index may find fewer candidates than there are.
            if len(candidates) < len(found) or (
                len(found) < limit
                and await self._store.vectors.found_all(search.selection, len(found))
            ):
                return following
            limit = min(_MAX_CANDIDATES, _OVERFETCH * limit)

    async def _candidates(self, search: Search, limit: int) -> list[Candidate]:
        """Return the nearest candidates, best first, ties by id."""
        spec = search.spec
        found = await self._store.vectors.candidates(
            search.selection,
            search.vector,
            limit=limit,
            include_vectors=spec.diversity is not None,
            field=spec.grouping.field if spec.grouping else "",
        )
        return break_ties(found)


def break_ties(found: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates best first; those of about one score by id, all with the best score.

    Milvus may compute the cosine of equal vectors a little differently once it has moved a row, so
    their order could change between two pages.
    """
    settled: list[Candidate] = []
    ties: list[Candidate] = []
    for candidate in sorted(found, key=lambda one: -one.score):
        if ties and ties[-1].score - candidate.score > JITTER:
            settled += _by_id(ties)
            ties = []
        ties.append(candidate)
    return settled + _by_id(ties)


def _by_id(ties: Sequence[Candidate]) -> list[Candidate]:
    return [replace(one, score=ties[0].score) for one in sorted(ties, key=lambda one: one.id)]


def _ranked(spec: SearchSpec, candidates: Sequence[Candidate], end: int) -> list[ScoredId]:
    """Return the ranking made of `candidates`, up to its rank `end` or further.

    Drop duplicates first, order the rest by diversity, then group.
    """
    order = list(range(len(candidates)))
    if spec.diversity is not None and candidates:
        vectors = np.stack([one.vector for one in candidates if one.vector is not None])
        threshold, relevance_share = spec.diversity.duplicate_threshold, spec.diversity.mmr_lambda
        if threshold is not None:
            order = distinct(vectors, threshold)
        if relevance_share is not None:
            relevance = np.array([candidates[index].score for index in order], np.float32)
            most = len(order) if spec.grouping else end
            chosen = diverse(relevance, vectors[order], relevance_share, most)
            order = [order[index] for index in chosen]
    if spec.grouping is not None:
        values = [candidates[index].value for index in order]
        order = [order[index] for index in grouped(values, spec.grouping.size)]
    return [(candidates[index].id, candidates[index].score) for index in order]


def _adds_at_end(spec: SearchSpec) -> bool:
    """Tell whether more candidates only add hits at the ranking's end; it is in score order."""
    if spec.diversity is not None and spec.diversity.mmr_lambda is not None:
        return False
    return spec.grouping is None or spec.grouping.size == 1


def _check_grouping(spec: SearchSpec, collection: CollectionInfo) -> None:
    if spec.grouping is None:
        return
    where = "params.group.field"
    field_type = schema.type_of(spec.grouping.field, collection.fields, where)
    if field_type not in _GROUPABLE:
        raise InvalidArgument(
            "FIELD_TYPE",
            f"field {spec.grouping.field!r} is a {field_type}; hits are grouped by fields of type "
            f"{', '.join(_GROUPABLE)}",
            field=where,
            name=spec.grouping.field,
        )


def _text_of(hybrid: Hybrid, query: Query) -> str:
    """Return the words to find, checked."""
    text, content = hybrid.text, query.terms[0].content
    if not text and not query.is_composite and content and content.kind is Kind.TEXT:
        text = content.text
    if not text.strip():
        raise InvalidArgument(
            "TEXT_EMPTY",
            "a hybrid search needs words: set hybrid.text, or make the query a text",
            field="params.hybrid.text",
        )
    if len(text.encode()) > _MAX_TEXT_BYTES:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has more than {_MAX_TEXT_BYTES} bytes",
            field="params.hybrid.text",
            limit=_MAX_TEXT_BYTES,
        )
    return text


def distinct(vectors: FloatArray, threshold: float) -> list[int]:
    """Return the candidates that do not duplicate a better one.

    Keep a candidate if its cosine to every kept one is below `threshold`. So the result for a
    longer list begins with the result for a shorter one.

    Args:
        vectors: float32 `[n, d]`, best first.
        threshold: Above 0, at most 1.

    Returns:
        Ascending indices. O(kept * n * d).
    """
    bound = threshold - _ROUNDING
    is_duplicate = np.zeros(len(vectors), dtype=bool)
    kept: list[int] = []
    for index in range(len(vectors)):
        if is_duplicate[index]:
            continue
        kept.append(index)
        is_duplicate[index + 1 :] |= vectors[index + 1 :] @ vectors[index] >= bound
    return kept


def diverse(
    relevance: FloatArray, vectors: FloatArray, relevance_share: float, most: int
) -> list[int]:
    """Return the candidates in the order of maximal marginal relevance.

    The first is the first candidate. Each next one has the greatest
    `share * relevance - (1 - share) * cosine to the nearest chosen one`; the first of equals
    (Carbonell and Goldstein, SIGIR 1998).

    Args:
        relevance: float32 `[n]`, descending: cosines to the query.
        vectors: float32 `[n, d]`.
        relevance_share: lambda, 0 to 1.
        most: Stop after so many; it does not change which come first.

    Returns:
        min(most, n) indices. O(most * n * d): each chosen one is compared with all others once.
    """
    count = min(most, len(vectors))
    if count == 0:
        return []
    relevance_gain = np.float32(relevance_share) * relevance
    novelty_share = np.float32(1.0 - relevance_share)
    nearest = np.full(len(vectors), -np.inf, dtype=np.float32)
    chosen = [0]
    is_chosen = np.zeros(len(vectors), dtype=bool)
    is_chosen[0] = True
    while len(chosen) < count:
        np.maximum(nearest, vectors @ vectors[chosen[-1]], out=nearest)
        gain = np.where(is_chosen, -np.inf, relevance_gain - novelty_share * nearest)
        best = int(np.argmax(gain))  # the first of equals
        chosen.append(best)
        is_chosen[best] = True
    return chosen


def grouped(values: Sequence[Hashable | None], size: int) -> list[int]:
    """Return the best `size` candidates of each value, group after group.

    Args:
        values: `[n]`, the candidates' values, best first; each None is a group of its own.
        size: Most of each group, at least 1.

    Returns:
        Indices. Groups are in the order of their best candidates, and so are the candidates of a
        group. With `size` 1, the result for a longer list begins with that for a shorter one.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, value in enumerate(values):
        # A tuple keeps values apart from the indices that stand for a missing value.
        group = groups.setdefault((value,) if value is not None else index, [])
        if len(group) < size:
            group.append(index)
    return [index for group in groups.values() for index in group]


def fuse(rankings: Sequence[tuple[Sequence[str], float]], constant: int) -> list[ScoredId]:
    """Return every id with its fused score by reciprocal rank fusion, best first, ties by id.

    score = sum of weight / (constant + rank) over the rankings that have the id, ranks from 1
    (Cormack, Clarke and Büttcher, SIGIR 2009; the weights are ours).

    Args:
        rankings: Ids best first, each at most once, with the ranking's weight, at least 0.
        constant: At least 1; a greater one makes the first ranks count less.
    """
    scores: dict[str, float] = {}
    for ids, weight in rankings:
        for rank, item_id in enumerate(ids, 1):
            scores[item_id] = scores.get(item_id, 0.0) + weight / (constant + rank)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))
