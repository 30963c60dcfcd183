"""Embed, Rank and GetModel at a gateway: the workers' own answers, whichever worker gives them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import photos, processes, secure
from tests.processes import metric
from tests.search_server.conftest import MIB, error_info, image, reason_of
from tests.search_server.embedders.test_faults import gateway_at
from tests.waiting import until

Stub = pb_grpc.EmbeddingServiceStub
ELEMENTS = [name for name in content_pb2.ElementType.keys() if "UNSPECIFIED" not in name]  # noqa: SIM118


def stub_of(server: processes.Server) -> Stub:
    options = [("grpc.max_receive_message_length", 64 * MIB), ("grpc.enable_retries", 0)]
    return Stub(secure.channel(server.address, options))


def words(text: str) -> content_pb2.Content:
    return content_pb2.Content(text=text)


def new_words(text: str) -> content_pb2.Content:
    """Return a text that nobody has embedded yet."""
    return words(f"{text} {uuid.uuid4().hex}")


def embed(stub: Stub, *contents: content_pb2.Content, **options: Any) -> pb.EmbedResponse:
    request = pb.EmbedRequest(contents=contents)
    if options:
        request.options.CopyFrom(pb.EmbedOptions(**options))
    return stub.Embed(request, timeout=50)


def without_times(response: Any) -> Any:
    response.ClearField("timings")
    return response


def refusal(call: Any) -> tuple[str, str, str]:
    """Return the code, the reason and the field of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return refusal_of(caught.value)


def refusal_of(error: grpc.RpcError) -> tuple[str, str, str]:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return *error_info(error), field_of(status_pb2.Status.FromString(details))


def field_of(status: status_pb2.Status) -> str:
    """Return the path of the request's wrong field, which the first detail names."""
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return info.metadata["field"]


@pytest.fixture(scope="module")
def worker(default_worker: processes.Server) -> Stub:
    return stub_of(default_worker)


@pytest.fixture(scope="module")
def server(
    default_worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Server]:
    with gateway_at(tmp_path_factory.mktemp("gateway"), default_worker.address) as running:
        yield running


@pytest.fixture
def gateway(server: processes.Server) -> Stub:
    return stub_of(server)


def cropped() -> content_pb2.Content:
    content = image(photos.photo("chelsea").read_bytes())
    content.image.crop.right = content.image.crop.bottom = 0.5
    return content


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": False},
        {"truncate": False, "priority": pb.PRIORITY_BULK},
        {"thumbnail_side": 64},
        *({"element_type": element} for element in ELEMENTS),
    ],
    ids=str,
)
def test_the_answer_is_the_workers_own(worker: Stub, gateway: Stub, options: Any) -> None:
    """Bit for bit: each call has one text or one image, which is a batch of its own."""
    for content in (new_words("a dog on the beach"), new_words("long " * 600), cropped()):
        if len(content.text) > 1_000 and not options.get("truncate", True):
            continue
        own = without_times(embed(worker, content, **options))
        assert own.results[0].WhichOneof("outcome") == "vector"
        assert without_times(embed(gateway, content, **options)) == own
        # Once more, now that the gateway may know it.
        assert without_times(embed(gateway, content, **options)) == own


def test_there_are_no_thumbnails_of_images_by_uri(gateway: Stub) -> None:
    by_uri = content_pb2.Content()
    by_uri.image.uri = "https://example.com/dog.jpg"
    answer = embed(gateway, cropped(), by_uri, thumbnail_side=64)
    assert answer.results[0].image.thumbnail
    assert "leave out thumbnail_side" in answer.results[1].error.message


def test_one_bad_content_never_fails_its_neighbours(gateway: Stub) -> None:
    bad_crop, by_uri = cropped(), content_pb2.Content()
    bad_crop.image.crop.left = 0.9
    by_uri.image.uri = "https://example.com/dog.jpg"
    bad = {
        1: (words(" "), "TEXT_EMPTY", "contents[1].text"),
        2: (content_pb2.Content(), "CONTENT_MISSING", "contents[2]"),
        4: (image(b"\xff\xd8\xff damaged"), "IMAGE_DECODE_FAILED", "contents[4].image.data"),
        5: (bad_crop, "CROP_INVALID", "contents[5].image.crop"),
        7: (by_uri, "URI_FORBIDDEN", "contents[7].image.uri"),
        8: (image(b""), "IMAGE_EMPTY", "contents[8].image.data"),
    }
    contents = [new_words("good") for _ in range(10)]
    for place, (content, _, _) in bad.items():
        contents[place] = content
    for options in ({}, {"priority": pb.PRIORITY_BULK}):
        results = embed(gateway, *contents, **options).results
        found = {
            place: (reason_of(result.error), field_of(result.error))
            for place, result in enumerate(results)
            if result.HasField("error")
        }
        assert found == {place: (reason, field) for place, (_, reason, field) in bad.items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dimensions": 7}, ("DIMENSIONS_UNSUPPORTED", "options.dimensions")),
        ({"thumbnail_side": 7}, ("PARAMETER_OUT_OF_RANGE", "options.thumbnail_side")),
        ({"priority": 7}, ("PARAMETER_OUT_OF_RANGE", "options.priority")),
        ({"element_type": 77}, ("PARAMETER_OUT_OF_RANGE", "options.element_type")),
    ],
)
def test_bad_options_are_named(
    worker: Stub, gateway: Stub, options: Any, expected: tuple[str, str]
) -> None:
    for stub in (gateway, worker):
        with pytest.raises(grpc.RpcError) as caught:
            embed(stub, words("red"), **options)
        assert refusal_of(caught.value) == ("INVALID_ARGUMENT", *expected)


def test_requests_that_fail_as_a_whole(gateway: Stub) -> None:
    most = gateway.GetModel(pb.GetModelRequest()).model.limits.max_contents_per_request
    invalid = "INVALID_ARGUMENT"
    assert refusal(lambda: embed(gateway)) == (invalid, "BATCH_EMPTY", "contents")
    too_many = [words("red")] * (most + 1)
    assert refusal(lambda: embed(gateway, *too_many))[:2] == (invalid, "BATCH_TOO_LARGE")
    for call in (
        lambda: embed(gateway, words("red"), model="another"),
        lambda: gateway.Rank(pb.RankRequest(query=words("red"), model="another")),
        lambda: gateway.GetModel(pb.GetModelRequest(model="another")),
    ):
        assert refusal(call)[:2] == ("NOT_FOUND", "MODEL_NOT_FOUND")
    stream = pb.EmbedStreamRequest(request=pb.EmbedRequest(contents=[words("red")]))
    code, reason, _ = refusal(lambda: list(gateway.EmbedStream(iter([stream]), timeout=20)))
    assert (code, reason) == ("UNIMPLEMENTED", "METHOD_UNSUPPORTED")


def lookups(server: processes.Server, outcome: str) -> float:
    name = "sentinel_gateway_embedding_cache_lookups_total"
    return metric(server.metrics_address, name, outcome=outcome)


def test_texts_are_embedded_once(server: processes.Server, gateway: Stub) -> None:
    text = new_words("a dog")
    before = lookups(server, "hit")
    first, second = (embed(gateway, text).results[0] for _ in range(2))
    assert lookups(server, "hit") == before + 1
    assert first == second
    small = embed(gateway, text, element_type=content_pb2.ELEMENT_TYPE_FLOAT16).results[0]
    assert lookups(server, "hit") == before + 2  # the gateway encodes vectors itself
    half = np.frombuffer(small.vector.data, "<f2").astype(np.float32)
    np.testing.assert_allclose(half, np.frombuffer(first.vector.data, "<f4"), atol=1e-3)


def test_bulk_work_and_other_options_leave_the_cache_alone(
    server: processes.Server, gateway: Stub
) -> None:
    text = new_words("a dog")
    before = [lookups(server, one) for one in ("hit", "miss", "joined")]
    embed(gateway, text, priority=pb.PRIORITY_BULK)
    embed(gateway, text, normalize=False)
    embed(gateway, text, truncate=False)
    assert [lookups(server, one) for one in ("hit", "miss", "joined")] == before


def test_a_ranking_is_the_workers_own(worker: Stub, gateway: Stub) -> None:
    pictures = [image(photos.photo(name).read_bytes()) for name in ("chelsea", "rocket", "coffee")]
    request = pb.RankRequest(
        query=words("a cat"), candidates=[*pictures, words(" "), words("a rocket")], top_k=3
    )
    own, ours = worker.Rank(request, timeout=50), gateway.Rank(request, timeout=50)
    assert [one.index for one in ours.candidates] == [one.index for one in own.candidates]
    assert len(ours.candidates) == 4
    assert reason_of(ours.candidates[3].error) == "TEXT_EMPTY"
    for name in ("cosine", "probability"):
        values = [[getattr(one, name) for one in answer.candidates] for answer in (ours, own)]
        np.testing.assert_allclose(*values, atol=1e-5)
    assert ours.model_version == own.model_version


def test_a_bad_query_or_number_fails_a_ranking(gateway: Stub) -> None:
    def rank(query: content_pb2.Content, *candidates: str, top_k: int = 0) -> pb.RankResponse:
        request = pb.RankRequest(query=query, candidates=map(words, candidates), top_k=top_k)
        return gateway.Rank(request, timeout=50)

    bad = image(b"\xff\xd8\xff damaged")
    invalid = "INVALID_ARGUMENT"
    assert refusal(lambda: rank(bad, "a")) == (invalid, "IMAGE_DECODE_FAILED", "query.image.data")
    assert refusal(lambda: rank(words(""), "a")) == (invalid, "TEXT_EMPTY", "query.text")
    assert refusal(lambda: rank(words("a"))) == (invalid, "BATCH_EMPTY", "candidates")
    out = (invalid, "PARAMETER_OUT_OF_RANGE", "top_k")
    assert refusal(lambda: rank(words("a"), "b", top_k=-1)) == out


def test_request_ids_reach_the_workers(default_worker: processes.Server, gateway: Stub) -> None:
    for number, options in enumerate(({}, {"normalize": False})):
        request_id = f"embedding-{uuid.uuid4().hex}-{number}"
        request = pb.EmbedRequest(contents=[new_words("red")], options=pb.EmbedOptions(**options))
        gateway.Embed(request, timeout=50, metadata=[("x-request-id", request_id)])
        until(lambda wanted=request_id: wanted in default_worker.log.read_text())
