"""Convert items between messages and our types."""

from __future__ import annotations

from search_server.api.common_messages import (
    fields_from,
    fields_to,
    vector_from,
    vector_to,
    whole_content_from,
)
from search_server.types.items import (
    ItemOutcome,
    Outcome,
    StoredItem,
    UnreadableItem,
)
from sentinel.search.v1 import (
    item_service_pb2,
)
from sentinel_core.errors import SentinelError
from sentinel_core.status import to_status
from sentinel_store.items import Item

_OUTCOMES = {
    Outcome.STORED: item_service_pb2.ItemResult.OUTCOME_STORED,
    Outcome.UNCHANGED: item_service_pb2.ItemResult.OUTCOME_UNCHANGED,
    Outcome.FAILED: item_service_pb2.ItemResult.OUTCOME_FAILED,
}


def item_from(item: item_service_pb2.Item, place: int) -> Item | UnreadableItem:
    """Read one item; what is wrong with it is its own result and nobody else's."""
    where = f"items[{place}]"
    try:
        return Item(
            id=item.id,
            content=whole_content_from(item.content, f"{where}.content")
            if item.HasField("content")
            else None,
            vector=vector_from(item.vector, f"{where}.vector") if item.HasField("vector") else None,
            fields=fields_from(item.fields),
        )
    except SentinelError as error:
        return UnreadableItem(item.id, error)


def item_result_to(outcome: ItemOutcome) -> item_service_pb2.ItemResult:
    result = item_service_pb2.ItemResult(id=outcome.id, outcome=_OUTCOMES[outcome.outcome])
    if isinstance(outcome.error, SentinelError):
        result.error.CopyFrom(to_status(outcome.error))
    return result


def item_to(item: StoredItem) -> item_service_pb2.Item:
    message = item_service_pb2.Item(
        id=item.row.id,
        fields=fields_to(item.row.fields),
        image_uri=item.image_uri,
        thumbnail=item.thumbnail,
    )
    if item.row.text:
        message.content.text = item.row.text
    if item.row.vector is not None:
        message.vector.CopyFrom(vector_to(item.row.vector))
    return message
