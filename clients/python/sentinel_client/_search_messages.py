"""Convert the results of searches from the contract's messages to the client's types."""

from __future__ import annotations

from typing import Any

from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _messages
from sentinel_client._field_messages import fields_from_proto
from sentinel_client._search_types import (
    Hit,
    Match,
    Notice,
    NoticeKind,
    SearchPage,
    SearchResult,
    SearchTimings,
)

_MATCHES = {search_pb.MatchLevel.Value(f"MATCH_LEVEL_{one.name}"): one for one in Match}
_NOTICE_KINDS = {search_pb.Notice.Kind.Value(f"KIND_{one.name}"): one for one in NoticeKind}


def result_from_proto(
    header: search_pb.SearchHeader, hits: list[Hit], summary: search_pb.SearchSummary
) -> SearchResult:
    """Return the result of a stream: its first message's header, all hits, and its summary."""
    return SearchResult(
        hits=tuple(hits),
        timings=timings_from_proto(summary),
        collection=header.collection,
        model=_messages.model_from_proto(header.model_version),
        notices=notices_from_proto(summary),
    )


def hit_from_proto(message: search_pb.Hit) -> Hit:
    return Hit(
        id=message.id,
        rank=message.rank,
        score=message.score,
        fields=fields_from_proto(message.fields),
        image_uri=message.image_uri,
        text=message.text,
        thumbnail=message.thumbnail,
        vector=_messages.vector_from_proto(message.vector) if message.HasField("vector") else None,
        match=_MATCHES.get(message.match_level),
    )


def page_from_proto(message: search_pb.SearchPageResponse) -> SearchPage:
    return SearchPage(
        hits=tuple(map(hit_from_proto, message.hits)),
        next_page_token=message.next_page_token,
        timings=timings_from_proto(message.summary),
        notices=notices_from_proto(message.summary),
    )


def notices_from_proto(message: search_pb.SearchSummary) -> tuple[Notice, ...]:
    """Convert the notices of a search; leave out kinds that this client does not know."""
    return tuple(
        Notice(_NOTICE_KINDS[notice.kind], notice.message)
        for notice in message.notices
        if notice.kind in _NOTICE_KINDS
    )


def timings_from_proto(message: search_pb.SearchSummary) -> SearchTimings:
    """Convert the durations of a search to seconds."""

    def seconds(name: str) -> float | None:
        if not message.HasField(name):
            return None
        duration: Any = getattr(message, name)
        return float(duration.ToNanoseconds()) / 1e9

    return SearchTimings(
        total=seconds("total") or 0.0,
        embed=seconds("embed"),
        embed_queue=seconds("embed_queue"),
        embed_inference=seconds("embed_inference"),
        vector_search=seconds("vector_search"),
        embed_cached=message.embed_cached,
    )
