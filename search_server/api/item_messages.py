"""Convert items between messages and our types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from search_server.api.common_messages import (
    enum_table,
    fields_from,
    out_of_range,
    set_fields,
    vector_from,
    vector_to,
    whole_content_from,
)
from search_server.types.items import ItemOutcome, Outcome, StoredItem, UnreadableItem
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel_core.errors import SentinelError
from sentinel_core.status import to_status
from sentinel_store.items import Content, Item

_DIGEST = re.compile(r"[0-9a-f]{64}")
_OUTCOMES = {
    ours: theirs for theirs, ours in enum_table(pb.ItemResult.Outcome, "OUTCOME", Outcome).items()
}


def items_from(items: Iterable[pb.Item]) -> list[Item | UnreadableItem]:
    """Convert the items of a batch; an error in one fails that item only."""
    return [_item_from(item, position) for position, item in enumerate(items)]


def _item_from(item: pb.Item, position: int) -> Item | UnreadableItem:
    where = f"items[{position}]"
    try:
        return Item(
            id=item.id,
            content=_content_from(item, where) if item.HasField("content") else None,
            vector=vector_from(item.vector, f"{where}.vector") if item.HasField("vector") else None,
            fields=fields_from(item.fields, f"{where}.fields"),
            vector_from_model=item.vector_from_model,
        )
    except SentinelError as error:
        return UnreadableItem(item.id, error)


def _content_from(item: pb.Item, where: str) -> Content:
    content = whole_content_from(item.content, f"{where}.content")
    if not item.by_reference:
        return content
    if not content.uri:
        raise out_of_range("only an image with a file URI can be stored by reference", where)
    if not _DIGEST.fullmatch(item.digest):
        raise out_of_range("by_reference needs the hex SHA-256 of the file", f"{where}.digest")
    return replace(content, digest=item.digest)


def item_result_to(outcome: ItemOutcome) -> pb.ItemResult:
    """Convert the result for one item."""
    result = pb.ItemResult(
        id=outcome.id, outcome=_OUTCOMES[outcome.outcome], truncated=outcome.truncated
    )
    if outcome.error is not None:
        result.error.CopyFrom(to_status(outcome.error))
    return result


def item_to(item: StoredItem) -> pb.Item:
    """Convert one item that was read back."""
    message = pb.Item(
        id=item.row.id,
        image_uri=item.image_uri,
        thumbnail=item.thumbnail,
        digest=item.row.digest,
        by_reference=bool(item.row.reference),
    )
    set_fields(message.fields, item.row.fields)
    if item.row.text:
        message.content.text = item.row.text
    if item.row.vector is not None:
        message.vector.CopyFrom(vector_to(item.row.vector))
    return message
