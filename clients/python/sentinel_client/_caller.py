"""Who calls, and what it may do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sentinel.search.v1 import access_service_pb2 as access_pb


class Scope(enum.Enum):
    """What a call does."""

    SEARCH = "search"
    # Read and list items and collections.
    READ = "read"
    # Write and delete items.
    WRITE = "write"
    # Create, name, delete and reindex collections.
    ADMIN = "admin"
    # Embed and rank contents.
    EMBED = "embed"


@dataclass(frozen=True, slots=True)
class Grant:
    """One scope for one collection, or for all whose names begin alike.

    Attributes:
        scope: The scope.
        collection: Name of a collection or an alias; with `is_prefix`, its beginning.
        is_prefix: Whether it is for all names that begin with `collection`; all begin with "".
    """

    scope: Scope
    collection: str = ""
    is_prefix: bool = True

    def covers(self, collection: str) -> bool:
        """Return whether it is for this collection."""
        if self.is_prefix:
            return collection.startswith(self.collection)
        return collection == self.collection


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the gateway sees it.

    Attributes:
        id: Id of the key, subject of the token, or name in the client certificate; empty without
            access control.
        tenant: The tenant whose collections it sees; empty: those of no tenant.
        grants: What it may do: the union of all.
        access_controlled: Whether the gateway checks credentials. If not, everybody may do
            everything.
    """

    id: str
    tenant: str
    grants: tuple[Grant, ...]
    access_controlled: bool

    def may(self, scope: Scope, collection: str | None = None) -> bool:
        """Return whether it has `scope` for a collection; None: for any at all."""
        return any(
            grant.scope is scope and (collection is None or grant.covers(collection))
            for grant in self.grants
        )


_SCOPES = {access_pb.Grant.Scope.Value(f"SCOPE_{scope.name}"): scope for scope in Scope}


def caller_from_proto(message: access_pb.GetCallerResponse) -> Caller:
    grants = tuple(
        Grant(_SCOPES[one.scope], one.collection, one.is_prefix)
        for one in message.grants
        if one.scope in _SCOPES  # a newer gateway may have more
    )
    return Caller(message.id, message.tenant, grants, message.access_controlled)
