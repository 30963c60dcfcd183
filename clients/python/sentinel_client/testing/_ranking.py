"""Rank items for a search: by cosine, with a keyword search, without duplicates, in groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy as np

from sentinel.search.v1 import search_service_pb2 as pb
from sentinel_client._types import Vector
from sentinel_client.testing._model import words_of
from sentinel_client.testing._search_checks import hybrid_text
from sentinel_client.testing._store import FakeCollection, StoredItem

# An item with its score.
Scored: TypeAlias = tuple[StoredItem, float]

# The limits of the gateway: candidates for diversity and groups, and of each fused ranking.
_MAX_CANDIDATES = 1_000
_FUSED = 500
_DEFAULT_RRF_K = 60
_K1, _B = 1.2, 0.75  # of BM25
_ROUNDING = 1e-6


def is_reordered(params: pb.SearchParams) -> bool:
    """Tell whether the order of a ranking is not simply by score."""
    return params.HasField("hybrid") or params.HasField("diversity") or params.HasField("group")


def ranked(
    params: pb.SearchParams, vector: Vector, items: Sequence[StoredItem], collection: FakeCollection
) -> list[Scored]:
    """Return the hits among `items`, best first; `vector` has length 1."""
    least = params.min_score if params.HasField("min_score") else -1.0
    nearest = [one for one in _by_cosine(vector, items) if one[1] >= least]
    if params.HasField("hybrid"):
        return _fused(params, nearest, items, collection)
    if not is_reordered(params):
        return nearest
    candidates = _varied(params.diversity, nearest[:_MAX_CANDIDATES])
    return _grouped(params.group, candidates) if params.HasField("group") else candidates


def _by_cosine(vector: Vector, items: Sequence[StoredItem]) -> list[Scored]:
    if not items:
        return []
    scores = np.stack([one.vector for one in items]) @ vector
    scored = [(one, float(score)) for one, score in zip(items, scores, strict=True)]
    return sorted(scored, key=lambda one: (-one[1], one[0].id))


def _fused(
    params: pb.SearchParams,
    nearest: Sequence[Scored],
    items: Sequence[StoredItem],
    collection: FakeCollection,
) -> list[Scored]:
    """Return the reciprocal rank fusion of the vector ranking and the text ranking."""
    hybrid = params.hybrid
    by_text = _by_text(hybrid_text(params), items, collection)
    scores: dict[str, float] = {}
    for ranking, name in ((nearest, "vector_weight"), (by_text, "text_weight")):
        weight = getattr(hybrid, name) if hybrid.HasField(name) else 1.0
        for rank, (item, _) in enumerate(ranking[:_FUSED] if weight else (), 1):
            share = weight / ((hybrid.rrf_k or _DEFAULT_RRF_K) + rank)
            scores[item.id] = scores.get(item.id, 0.0) + share
    by_id = {one.id: one for one in items}
    return sorted(
        ((by_id[item_id], score) for item_id, score in scores.items()),
        key=lambda one: (-one[1], one[0].id),
    )


def _by_text(text: str, items: Sequence[StoredItem], collection: FakeCollection) -> list[Scored]:
    """Return the items that have any of the words, by BM25 over the whole collection."""
    documents = {
        one.id: Counter(
            word
            for name in collection.full_text
            if name in one.fields
            for word in words_of(str(one.fields[name]))
        )
        for one in collection.items.values()
    }
    lengths = {item_id: sum(words.values()) for item_id, words in documents.items()}
    average = sum(lengths.values()) / max(1, len(lengths))
    scores: dict[str, float] = {}
    for word in set(words_of(text)):
        having = [item_id for item_id, words in documents.items() if word in words]
        rarity = math.log(1 + (len(documents) - len(having) + 0.5) / (len(having) + 0.5))
        for item_id in having:
            count = documents[item_id][word]
            norm = _K1 * (1 - _B + _B * lengths[item_id] / average)
            gain = rarity * count * (_K1 + 1) / (count + norm)
            scores[item_id] = scores.get(item_id, 0.0) + gain
    found = [(one, scores[one.id]) for one in items if one.id in scores]
    return sorted(found, key=lambda one: (-one[1], one[0].id))


def _varied(diversity: pb.DiversityParams, candidates: list[Scored]) -> list[Scored]:
    """Drop duplicates of better candidates, then order the rest by maximal marginal relevance."""
    if diversity.HasField("duplicate_threshold"):
        bound = diversity.duplicate_threshold - _ROUNDING
        kept: list[Scored] = []
        for item, score in candidates:
            if all(item.vector @ better.vector < bound for better, _ in kept):
                kept.append((item, score))
        candidates = kept
    if not diversity.HasField("mmr_lambda") or not candidates:
        return candidates
    return _by_marginal_relevance(candidates, diversity.mmr_lambda)


def _by_marginal_relevance(candidates: Sequence[Scored], share: float) -> list[Scored]:
    """Return the candidates so that each next one is relevant and unlike those before."""
    vectors = np.stack([one.vector for one, _ in candidates])
    relevance = np.array([score for _, score in candidates])
    nearest = np.full(len(candidates), -np.inf)
    gain = np.where(np.arange(len(candidates)) == 0, np.inf, -np.inf)
    order: list[int] = []
    while len(order) < len(candidates):
        order.append(int(np.argmax(gain)))  # the first of equals
        nearest = np.maximum(nearest, vectors @ vectors[order[-1]])
        gain = share * relevance - (1 - share) * nearest
        gain[order] = -np.inf
    return [candidates[index] for index in order]


def _grouped(group: pb.GroupParams, candidates: Sequence[Scored]) -> list[Scored]:
    """Return the best of each value of a field, group after group."""
    groups: dict[Hashable, list[Scored]] = {}
    for index, one in enumerate(candidates):
        fields = one[0].fields
        # An item without the field is a group of its own.
        key = (str(fields[group.field]),) if group.field in fields else index
        members = groups.setdefault(key, [])
        if len(members) < (group.size or 1):
            members.append(one)
    return [one for members in groups.values() for one in members]
