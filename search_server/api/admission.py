"""Limit the searches, reads, writes and embeddings that a gateway has in work at once."""

from __future__ import annotations

from functools import partial

from search_server.settings import GatewaySettings
from search_server.types.queries import SearchSpec
from sentinel_core.admission import Admission, export
from sentinel_core.errors import ResourceExhausted
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Kind

# A search of more characters takes its worker much longer than others.
_CHARS_PER_SEARCH = 4_096


class GatewayAdmission:
    """What may enter a gateway. Refusals are OVERLOADED, with the time until there should be room.

    Attributes:
        searches: Units: `searches`, and `characters` of their texts.
        reads: Unit: `reads`, calls that read items or collections.
        writes: Unit: `items` of calls that write; they have time. The batches of a stream are not
            counted: the stream is read no faster than they are stored.
        embeddings: Unit: `contents` of Embed and Rank; they have time.
    """

    def __init__(self, settings: GatewaySettings, metrics: ServerMetrics) -> None:
        most, wait_s = settings.max_searches_in_flight, settings.max_wait_seconds
        self.searches = Admission(
            {"searches": most, "characters": most * _CHARS_PER_SEARCH},
            partial(_overloaded, "searches"),
            max_wait_s=wait_s,
        )
        self.reads = Admission({"reads": most}, partial(_overloaded, "reads"), max_wait_s=wait_s)
        self.writes = Admission(
            {"items": settings.max_items_in_flight}, partial(_overloaded, "writes")
        )
        self.embeddings = Admission(
            {"contents": settings.max_items_in_flight}, partial(_overloaded, "contents to embed")
        )
        export(
            metrics,
            {
                "search": self.searches,
                "read": self.reads,
                "write": self.writes,
                "embed": self.embeddings,
            },
        )


def cost_of(*specs: SearchSpec) -> dict[str, int]:
    """Return what searches cost."""
    return {"searches": len(specs), "characters": sum(map(_characters, specs))}


def _characters(spec: SearchSpec) -> int:
    total = 0
    for term in spec.query.terms:
        content = term.content
        if content is not None:
            total += len(content.data if content.kind is Kind.TEXT else content.beside.encode())
    return total


def _overloaded(what: str, wait_s: float) -> ResourceExhausted:
    return ResourceExhausted(
        "OVERLOADED",
        f"this gateway has as many {what} as it can do soon; retry in {wait_s:.2f} s or at another "
        "gateway",
        retry_after_s=wait_s,
    )
