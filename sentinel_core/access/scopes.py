"""Scopes, roles and callers: what a credential allows.

A grant is written `scope` for all collections, `scope:name` for one, or `scope:begin*` for those
whose names begin so. A role is a named set of scopes and is written the same way.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sentinel_core.errors import PermissionDenied


class Scope(enum.StrEnum):
    """What a call does. Workers know only EMBED and READ."""

    SEARCH = "search"
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    EMBED = "embed"


SCOPES = tuple(scope.value for scope in Scope)
# Who may search may embed: a search does the same work, and a vector tells of the caller's own
# contents only.
ROLES: Mapping[str, tuple[Scope, ...]] = {
    "reader": (Scope.SEARCH, Scope.READ, Scope.EMBED),
    "writer": (Scope.SEARCH, Scope.READ, Scope.EMBED, Scope.WRITE),
    "owner": (Scope.SEARCH, Scope.READ, Scope.EMBED, Scope.WRITE, Scope.ADMIN),
    "service": (Scope.EMBED, Scope.READ),
}
_TENANT = re.compile(r"[a-z0-9]{1,32}")
_OF_A_TENANT = re.compile(r"tenant_[a-z0-9]+__")


@dataclass(frozen=True, slots=True)
class Grant:
    """One scope for one collection, or for all whose names begin with `collection`."""

    scope: Scope
    collection: str = ""
    is_prefix: bool = True

    def covers(self, collection: str) -> bool:
        """Tell whether it is for this collection."""
        if self.is_prefix:
            return collection.startswith(self.collection)
        return collection == self.collection


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    Attributes:
        id: The key's id, the token's subject or the certificate's name; for logs.
        tenant: Whose collections it sees; empty: those of no tenant. 1 to 32 lower-case letters
            and digits, so that no tenant's prefix begins another one's.
        grants: What it may do.

    Raises ValueError for another tenant.
    """

    id: str
    grants: frozenset[Grant]
    tenant: str = ""

    def __post_init__(self) -> None:
        if self.tenant and not _TENANT.fullmatch(self.tenant):
            raise ValueError(
                f"{self.tenant[:50]!r} is no tenant; use 1 to 32 lower-case letters and digits"
            )

    @property
    def prefix(self) -> str:
        """What the stored names of the tenant's collections begin with."""
        return f"tenant_{self.tenant}__" if self.tenant else ""

    def owns(self, name: str) -> bool:
        """Tell whether a stored name belongs to its tenant; without a tenant, to none."""
        return name.startswith(self.prefix) if self.tenant else not is_of_a_tenant(name)

    def localized(self, text: str) -> str:
        """Return a text for the caller, without the prefix of its tenant."""
        return text.replace(self.prefix, "") if self.tenant else text

    def may(self, scope: Scope, collection: str | None = None) -> bool:
        """Tell whether it has `scope` for a collection; None: for any at all."""
        return any(
            grant.scope is scope and (collection is None or grant.covers(collection))
            for grant in self.grants
        )

    def check(self, scope: Scope, collection: str | None = None) -> None:
        """Raise PermissionDenied unless `may`."""
        if not self.may(scope, collection):
            where = "" if collection is None else f" for collection {collection[:100]!r}"
            raise PermissionDenied(
                "SCOPE_MISSING",
                f"this needs the scope {scope.value}{where}, which your credential does not have; "
                "ask the operator for it",
                scope=scope.value,
            )


def is_of_a_tenant(name: str) -> bool:
    """Tell whether a stored name belongs to any tenant."""
    return _OF_A_TENANT.match(name) is not None


def parse_grants(
    texts: Iterable[str], roles: Mapping[str, Iterable[Scope]] = ROLES
) -> frozenset[Grant]:
    """Return the grants that scopes and roles with their collections describe.

    Raises ValueError for a name that is neither.
    """
    grants: set[Grant] = set()
    for text in texts:
        name, _, collection = text.partition(":")
        if name in roles:
            scopes: Iterable[Scope] = roles[name]
        elif name in SCOPES:
            scopes = (Scope(name),)
        else:
            known = ", ".join((*roles, *SCOPES))
            raise ValueError(f"{name!r} is neither a scope nor a role; use one of {known}")
        is_prefix = collection.endswith("*") or not collection
        for scope in scopes:
            grants.add(Grant(scope, collection.removesuffix("*"), is_prefix))
    return frozenset(grants)


EVERYTHING = frozenset(Grant(scope) for scope in Scope)
# Of servers without access control.
ANYBODY = Caller("", EVERYTHING)
