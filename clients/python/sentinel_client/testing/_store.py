"""What the fake keeps: collections with their items, and aliases."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message

from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import _field_messages, _messages
from sentinel_client._errors import FailedPrecondition, InvalidArgument, NotFound
from sentinel_client._types import FieldType, Vector
from sentinel_client.testing import _checks
from sentinel_client.testing._filters import FIELD_TYPES, Fields

# A lossless WebP of one pixel: the thumbnail of every image.
THUMBNAIL = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item; its vector has length 1.

    Attributes:
        image: The bytes of an image, unless it is by reference.
        image_digest: Hex SHA-256 of an image.
        reference: `file` URI of an image by reference.
    """

    id: str
    digest: str
    fields: Fields
    text: str = ""
    image: bytes = field(default=b"", repr=False)
    image_digest: str = ""
    reference: str = ""
    vector: Vector = field(
        default_factory=lambda: np.empty(0, np.float32), repr=False, compare=False
    )

    @property
    def image_uri(self) -> str:
        """A URI that says which image it is; nothing can be read from it, unless it is a file's."""
        if self.reference:
            return self.reference
        return f"memory:///{self.image_digest}" if self.image_digest else ""

    def fill(
        self,
        message: item_pb.Item | search_pb.Hit,
        output_fields: Iterable[str],
        *,
        vectors: bool,
        thumbnails: bool,
    ) -> None:
        """Write what items and hits have in common."""
        wanted = set(output_fields)
        message.id, message.image_uri = self.id, self.image_uri
        for name, value in self.fields.items():
            if not wanted or name in wanted:
                message.fields[name].CopyFrom(_field_messages.field_value(value))
        if vectors:
            message.vector.CopyFrom(_messages.vector_to_proto(self.vector))
        if thumbnails and self.image_digest:
            message.thumbnail = THUMBNAIL


@dataclass(slots=True, eq=False)
class FakeCollection:
    """A collection: its description as the contract has it, and its items by id.

    `id` differs from that of an earlier collection of the same name.
    """

    description: collection_pb.Collection
    items: dict[str, StoredItem] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def name(self) -> str:
        """Its own name."""
        return self.description.name

    @property
    def declared(self) -> dict[str, FieldType]:
        """Its fields and their types."""
        return {one.name: FIELD_TYPES[one.type] for one in self.description.fields}

    @property
    def full_text(self) -> list[str]:
        """The fields whose words can be searched."""
        return [one.name for one in self.description.fields if one.full_text]


class Store:
    """All collections. Hold `lock` during a call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.collections: dict[str, FakeCollection] = {}
        self.aliases: dict[str, str] = {}
        self._key = secrets.token_bytes(32)

    def find(self, name: str, field: str = "collection") -> FakeCollection:
        """Return a collection by its name or alias, which is in this field of the request."""
        _checks.check_no_tenant(name, field)
        _checks.check_name(name, "collection")
        found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise NotFound(
                "COLLECTION_NOT_FOUND",
                f"no collection {name!r}",
                metadata={"collection": name},
            )
        return found

    def find_by_own_name(self, name: str, field: str) -> FakeCollection:
        """Return a collection by its own name; an alias is an error."""
        found = self.find(name, field)
        if found.name != name:
            raise FailedPrecondition(
                "COLLECTION_ALIASED",
                f"{name!r} is an alias of {found.name!r}; use the collection's own name",
                field=field,
                metadata={"collection": found.name},
            )
        return found

    def aliases_of(self, name: str) -> list[str]:
        """Return the aliases of a collection, sorted."""
        return sorted(alias for alias, target in self.aliases.items() if target == name)

    def position(self, token: str, request: bytes) -> Any:
        """Return where a page begins; None for the first one. Raise for a token of others."""
        if not token:
            return None
        content = self.unseal(token, request)
        if content is None:
            raise InvalidArgument(
                "PAGE_TOKEN_INVALID",
                "the page token is damaged or belongs to another request; start again without one",
                field="page_token",
            )
        return content

    def seal(self, content: Any, request: bytes) -> str:
        """Return a token with `content`, a value of JSON, for an equal request later."""
        body = json.dumps(content).encode()
        return base64.urlsafe_b64encode(self._tag(body, request) + body).decode()

    def unseal(self, token: str, request: bytes) -> Any:
        """Return the content of a token; None if it is damaged or of another request."""
        try:
            raw = base64.urlsafe_b64decode(token.encode())
        except ValueError:
            return None
        tag, body = raw[:32], raw[32:]
        matches = hmac.compare_digest(tag, self._tag(body, request))
        return json.loads(body) if matches else None

    def _tag(self, body: bytes, request: bytes) -> bytes:
        return hmac.digest(self._key, hashlib.sha256(request).digest() + body, "sha256")


def identity(message: Message, *ignored: str) -> bytes:
    """Return what makes two requests equal, some fields aside."""
    same = type(message)()
    same.CopyFrom(message)
    for name in ignored:
        same.ClearField(name)
    return same.DESCRIPTOR.full_name.encode() + same.SerializeToString(deterministic=True)
