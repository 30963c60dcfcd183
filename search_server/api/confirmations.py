"""Protected mode: a large deletion needs the token that its dry run returned.

This guards against mistakes, not against attackers: whoever may delete can make a dry run. A token
holds what the dry run saw. It confirms the same deletion by the same caller while the collection is
the same one and few items came to those that the dry run counted.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TypeAlias

from search_server.api.seals import Seals
from sentinel.search.v1.collection_service_pb2 import DeleteCollectionRequest
from sentinel.search.v1.item_service_pb2 import DeleteItemsRequest
from sentinel_core.calls import current_caller
from sentinel_core.errors import FailedPrecondition, InvalidArgument
from sentinel_store.collections import CollectionInfo

DeletionRequest: TypeAlias = DeleteCollectionRequest | DeleteItemsRequest

LIFETIME_S = 300.0
# The number changes with the form of contents.
_PURPOSE = b"confirmation 1"
_FIELD = "confirmation_token"


class Confirmations:
    """Makes and checks the tokens that confirm deletions. Stateless."""

    def __init__(self, key: bytes, *, protect: bool, small_items: int) -> None:
        """Keep the settings.

        Args:
            key: Signs tokens; all gateways behind one address share it.
            protect: Whether large deletions need a token. A token that is sent is always checked.
            small_items: Most items that a filter may delete without a token. As many may have
                come to those that a dry run counted.
        """
        self._seals = Seals(key, _PURPOSE)
        self._protect = protect
        self._small_items = small_items

    def make(self, deletion: DeletionRequest, info: CollectionInfo, count: int) -> str:
        """Return the token for a deletion of `count` items in the collection `info`."""
        content = json.dumps([info.name, info.id, count]).encode()
        return self._seals.make(content, _identity(deletion))

    def may_refuse(self, deletion: DeletionRequest) -> bool:
        """Tell whether `check` could refuse the deletion, whatever its count."""
        return self._protect or bool(deletion.confirmation_token)

    def check(self, deletion: DeletionRequest, info: CollectionInfo, count: int) -> None:
        """Check that the caller may delete these `count` items of the collection `info`.

        Raises:
            FailedPrecondition: There is no token and one is needed; or it is too old, or the
                collection is another one or has many more items than the dry run found.
            InvalidArgument: The token is damaged, or for another deletion, caller or tenant.
        """
        if not deletion.confirmation_token:
            if self._protect and self._is_large(deletion, count):
                raise _needed(deletion, count)
            return
        opened = self._seals.open(deletion.confirmation_token, _identity(deletion))
        if opened is None:
            raise InvalidArgument(
                "CONFIRMATION_INVALID",
                "the confirmation token is damaged, or is for another deletion or caller; make a "
                "dry run of this one",
                field=_FIELD,
            )
        name, collection_id, counted = json.loads(opened.content)
        if opened.age_s > LIFETIME_S:
            raise _outdated(f"the confirmation token is older than {LIFETIME_S:g} s")
        if (name, collection_id) != (info.name, info.id):
            raise _outdated("since the dry run the name has come to mean another collection")
        if count > counted + self._small_items:
            raise _outdated(f"the dry run counted {counted:,} items, by now there are {count:,}")

    def _is_large(self, deletion: DeletionRequest, count: int) -> bool:
        if isinstance(deletion, DeleteCollectionRequest):
            return True
        return deletion.HasField("filter") and count > self._small_items


def _identity(deletion: DeletionRequest) -> bytes:
    """Return what a token is bound to besides the tenant: who deletes, and what by which method."""
    same = deepcopy(deletion)
    same.ClearField(_FIELD)
    if isinstance(same, DeleteItemsRequest):
        same.ClearField("dry_run")
    who = json.dumps([same.DESCRIPTOR.full_name, current_caller().id])
    return who.encode() + same.SerializeToString(deterministic=True)


def _needed(deletion: DeletionRequest, count: int) -> FailedPrecondition:
    dry_run = "PreviewDeletion"
    if isinstance(deletion, DeleteItemsRequest):
        dry_run = "DeleteItems with dry_run"
    return FailedPrecondition(
        "CONFIRMATION_NEEDED",
        f"this would delete {count:,} items, and the gateway is in protected mode; call {dry_run}, "
        "check what it finds, and repeat this call with its confirmation_token",
        field=_FIELD,
    )


def _outdated(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        "CONFIRMATION_OUTDATED", f"{what}; make a new dry run and check what it finds", field=_FIELD
    )
