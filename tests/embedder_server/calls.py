"""Requests to a worker in few words, and what its errors hold."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from sentinel.common.v1 import content_pb2
from sentinel.common.v1.error_reason_pb2 import ErrorReason
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from tests.fakes.fake_model import FakeModel
from tests.waiting import eventually

REASONS = {value.name for value in ErrorReason.DESCRIPTOR.values}


def text(value: str) -> content_pb2.Content:
    return content_pb2.Content(text=value)


def image(data: bytes) -> content_pb2.Content:
    return content_pb2.Content(image=content_pb2.Image(data=data))


def request(*contents: content_pb2.Content, **options: Any) -> pb.EmbedRequest:
    return pb.EmbedRequest(contents=contents, options=pb.EmbedOptions(**options))


def detail(details: Any, kind: type[Any]) -> Any:
    """Return the one detail of a kind; every error has exactly one ErrorInfo."""
    found = [kind() for one in details if one.Is(kind.DESCRIPTOR)]
    assert len(found) == 1
    for one in details:
        one.Unpack(found[0]) if one.Is(kind.DESCRIPTOR) else None
    return found[0]


def item_reason(status: status_pb2.Status) -> str:
    return str(detail(status.details, error_details_pb2.ErrorInfo).reason)


def call_details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    return list(status.details)


async def failure(call: Any) -> tuple[grpc.aio.AioRpcError, error_details_pb2.ErrorInfo]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = detail(call_details(caught.value), error_details_pb2.ErrorInfo)
    assert info.domain == "sentinel"
    assert f"ERROR_REASON_{info.reason}" in REASONS
    return caught.value, info


async def until_busy(model: FakeModel) -> None:
    """Wait until a batch is on the device."""
    await eventually(lambda: model.batches)
