"""What EmbedOptions and the crop box change, over the wire."""

from __future__ import annotations

import io
import math
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from PIL import Image

from embedder_server.app import running_worker
from embedder_server.settings import EmbedderSettings
from embedder_server.types import FloatArray, Modality
from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import secure
from tests.embedder_server.calls import failure, image, item_reason, request, text
from tests.embedder_server.pictures import encode, flat
from tests.fakes.fake_model import FakeModel

Box = tuple[float, float, float, float]


@pytest.fixture
def model() -> FakeModel:
    return FakeModel(supported_dimensions=(8, 4))


def elements(result: pb.EmbedResult) -> FloatArray:
    return np.frombuffer(result.vector.data, "<f4")


async def test_dimensions_are_cut_and_normalised_again(stub: pb_grpc.EmbeddingServiceStub) -> None:
    whole = elements((await stub.Embed(request(text("a red car")))).results[0])
    for size in (4, 8, 16):
        [result] = (await stub.Embed(request(text("a red car"), dimensions=size))).results
        cut = elements(result)
        assert result.vector.dimensions == len(cut) == size
        assert cut == pytest.approx(whole[:size] / np.linalg.norm(whole[:size]), abs=1e-6)


@pytest.mark.parametrize("size", [0, 5, 17, 2**31])
async def test_other_dimensions_are_refused(stub: pb_grpc.EmbeddingServiceStub, size: int) -> None:
    error, info = await failure(stub.Embed(request(text("x"), dimensions=size)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "DIMENSIONS_UNSUPPORTED"
    assert dict(info.metadata) == {"field": "options.dimensions", "supported": "4,8,16"}


async def test_without_normalising_the_model_s_own_vector_comes(
    stub: pb_grpc.EmbeddingServiceStub, model: FakeModel
) -> None:
    [result] = (await stub.Embed(request(text("a red car"), normalize=False))).results
    [raw] = model.embed_texts([model.tokenize("a red car")])
    assert elements(result) == pytest.approx(raw, rel=1e-5)
    assert abs(np.linalg.norm(raw) - 1) > 0.1


async def test_element_types(stub: pb_grpc.EmbeddingServiceStub) -> None:
    contents = text("a red car"), text(" ")
    exact = elements((await stub.Embed(request(*contents))).results[0])
    for kind, size in (("FLOAT16", 32), ("BFLOAT16", 32), ("INT8", 16), ("BINARY", 2)):
        element_type = content_pb2.ElementType.Value(f"ELEMENT_TYPE_{kind}")
        answer = await stub.Embed(request(*contents, element_type=element_type))
        vector = answer.results[0].vector
        assert (vector.element_type, vector.dimensions) == (element_type, 16)
        assert len(vector.data) == size
        assert item_reason(answer.results[1].error) == "TEXT_EMPTY"
        if kind == "INT8":
            decoded = np.frombuffer(vector.data, "i1") * np.float32(vector.scale)
            assert decoded == pytest.approx(exact, abs=vector.scale / 1.99)
        else:
            assert vector.scale == 0
        if kind == "BINARY":
            assert np.array_equal(np.unpackbits(np.frombuffer(vector.data, "u1")), exact > 0)


async def test_an_unknown_element_type_is_refused(stub: pb_grpc.EmbeddingServiceStub) -> None:
    _, info = await failure(stub.Embed(request(text("x"), element_type=99)))
    assert (info.reason, info.metadata["field"]) == (
        "PARAMETER_OUT_OF_RANGE", "options.element_type",
    )  # fmt: skip


def quarters(orientation: int = 1) -> bytes:
    """Red, lime / blue, yellow; with EXIF orientation 6 it stands on its left side in the file."""
    picture = Image.new("RGB", (40, 40))
    for index, colour in enumerate(("red", "lime", "blue", "yellow")):
        picture.paste(Image.new("RGB", (20, 20), colour), (index % 2 * 20, index // 2 * 20))
    if orientation == 6:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    return file.getvalue()


def cropped(data: bytes, box: Box) -> content_pb2.Content:
    content = image(data)
    content.image.crop.CopyFrom(
        content_pb2.BoundingBox(left=box[0], top=box[1], right=box[2], bottom=box[3])
    )
    return content


@pytest.mark.parametrize("orientation", [1, 6])
async def test_a_crop_is_taken_from_the_upright_picture(
    stub: pb_grpc.EmbeddingServiceStub, orientation: int
) -> None:
    data = quarters(orientation)
    boxes = [(0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1)]
    answer = await stub.Embed(
        request(*(cropped(data, box) for box in boxes), *map(text, ("red", "lime", "blue")))
    )
    vectors = [elements(result) for result in answer.results]
    for index in range(3):
        assert np.dot(vectors[index], vectors[4 + index]) > 0.9
    assert answer.results[0].image.width == 40


async def test_the_smallest_crop_holds_a_pixel(stub: pb_grpc.EmbeddingServiceStub) -> None:
    tiny = cropped(encode(flat("red"), "PNG"), (0.99999, 0.99999, 1, 1))
    [result] = (await stub.Embed(request(tiny))).results
    assert result.HasField("vector")


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 0), (0.5, 0, 0.5, 1), (0.6, 0, 0.4, 1), (0, 0.6, 1, 0.4), (-0.1, 0, 1, 1),
        (0, 0, 1.1, 1), (math.nan, 0, 1, 1), (0, 0, math.inf, 1),
    ],
)  # fmt: skip
async def test_a_bad_crop_fails_its_item_only(stub: pb_grpc.EmbeddingServiceStub, box: Box) -> None:
    data = encode(flat(), "PNG")
    answer = await stub.Embed(request(text("fine"), cropped(data, box)))
    assert answer.results[0].HasField("vector")
    assert item_reason(answer.results[1].error) == "CROP_INVALID"


async def test_a_worker_fetches_nothing(stub: pb_grpc.EmbeddingServiceStub) -> None:
    named = content_pb2.Content(image=content_pb2.Image(uri="https://example.com/cat.jpg"))
    answer = await stub.Embed(request(text("fine"), named))
    assert answer.results[0].HasField("vector")
    assert item_reason(answer.results[1].error) == "URI_FORBIDDEN"


@pytest.fixture
async def text_only(settings: EmbedderSettings) -> AsyncIterator[pb_grpc.EmbeddingServiceStub]:
    model = FakeModel(modalities=(Modality.TEXT,))
    async with (
        running_worker(settings, model=model) as worker,
        secure.aio_channel(worker.address) as channel,
    ):
        yield pb_grpc.EmbeddingServiceStub(channel)


async def test_a_missing_tower_fails_the_item(text_only: pb_grpc.EmbeddingServiceStub) -> None:
    answer = await text_only.Embed(request(text("fine"), image(encode(flat(), "PNG"))))
    assert answer.results[0].HasField("vector")
    assert item_reason(answer.results[1].error) == "MODALITY_UNSUPPORTED"
    served = (await text_only.GetModel(pb.GetModelRequest())).model
    assert list(served.modalities) == [pb.MODALITY_TEXT]
