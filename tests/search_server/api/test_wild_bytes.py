"""Bytes that are no message, or one that no library would write."""

from __future__ import annotations

import grpc
import pytest

from sentinel.search.v1 import search_service_pb2
from tests import secure
from tests.search_server.api.test_bad_input import text
from tests.search_server.conftest import Gateway, error_info


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _deep_filter(depth: int) -> bytes:
    """A SearchRequest whose filter is `none_of` that many times."""
    inner = b""
    for _ in range(depth):
        inner = _field(4, _field(1, inner))
    params = search_service_pb2.SearchParams(collection="photos", query=text("a cat"))
    return _field(1, params.SerializeToString() + _field(3, inner))


@pytest.mark.parametrize(
    "data", [_deep_filter(10_000), b"\xff" * 100], ids=["a filter 10,000 deep", "no message"]
)
def test_bytes_that_no_message_has_are_refused(gateway: Gateway, album: str, data: bytes) -> None:
    with secure.channel(gateway.address) as channel:
        search = channel.unary_stream("/sentinel.search.v1.SearchService/Search")
        with pytest.raises(grpc.RpcError) as caught:
            list(search(data, timeout=20))
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")
    assert gateway.count(album)  # and it serves on


def test_so_is_one_in_a_stream(gateway: Gateway) -> None:
    with secure.channel(gateway.address) as channel:
        ingest = channel.stream_stream("/sentinel.search.v1.ItemService/IngestItems")
        with pytest.raises(grpc.RpcError) as caught:
            list(ingest(iter([b"\xff" * 100]), timeout=20))
    assert error_info(caught.value) == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")
