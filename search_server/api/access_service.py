"""AccessService: tell callers what they may do."""

from __future__ import annotations

from typing import Any

from search_server.api.common_messages import Context
from sentinel.search.v1 import access_service_pb2 as pb
from sentinel.search.v1 import access_service_pb2_grpc as pb_grpc
from sentinel_core.access.scopes import Grant, Scope
from sentinel_core.calls import current_caller

_SCOPES: dict[Scope, Any] = {scope: pb.Grant.Scope.Value(f"SCOPE_{scope.name}") for scope in Scope}


class AccessService(pb_grpc.AccessServiceServicer):
    """Describes the caller. Needs neither Milvus nor a worker."""

    def __init__(self, *, access_controlled: bool) -> None:
        self._access_controlled = access_controlled

    async def GetCaller(
        self, request: pb.GetCallerRequest, context: Context
    ) -> pb.GetCallerResponse:
        caller = current_caller()
        return pb.GetCallerResponse(
            id=caller.id,
            tenant=caller.tenant,
            grants=map(_to_wire, sorted(caller.grants, key=_place)),
            access_controlled=self._access_controlled,
        )


def _to_wire(grant: Grant) -> pb.Grant:
    return pb.Grant(
        scope=_SCOPES[grant.scope],
        collection=grant.collection,
        is_prefix=grant.is_prefix,
    )


def _place(grant: Grant) -> tuple[int, str, bool]:
    return _SCOPES[grant.scope], grant.collection, grant.is_prefix
