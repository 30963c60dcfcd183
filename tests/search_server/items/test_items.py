"""Storing, reading and deleting items, on each Milvus."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import filter_pb2, item_service_pb2, search_service_pb2
from tests import photos
from tests.search_server.conftest import Gateway, image, photo_item, reason_of, text

Result = item_service_pb2.ItemResult


def outcomes(results: list[Result]) -> list[int]:
    return [result.outcome for result in results]


def vector(seed: int, dimensions: int = 384) -> content_pb2.Vector:
    values = np.random.default_rng(seed).normal(size=dimensions).astype("<f4")
    return content_pb2.Vector(data=values.tobytes(), dimensions=dimensions)


def test_the_id_of_an_image_is_the_hash_of_its_bytes(gateway: Gateway) -> None:
    name = gateway.create()
    data = photos.photo("chelsea").read_bytes()
    result = gateway.upsert(name, item_service_pb2.Item(content=image(data)))[0]
    assert result.id == hashlib.sha256(data).hexdigest()
    item = gateway.get(name, result.id).items[0]
    assert Path(urlparse(item.image_uri).path).read_bytes() == data


def test_storing_the_same_again_changes_nothing(gateway: Gateway) -> None:
    name = gateway.create()
    batch = [photo_item("chelsea"), photo_item("coffee")]
    assert outcomes(gateway.upsert(name, *batch)) == [Result.OUTCOME_STORED] * 2
    assert outcomes(gateway.upsert(name, *batch)) == [Result.OUTCOME_UNCHANGED] * 2
    assert gateway.count(name) == 2


def test_new_fields_replace_the_old_ones_and_keep_the_vector(gateway: Gateway) -> None:
    name = gateway.create()
    item = photo_item("chelsea")
    item_id = gateway.upsert(name, item)[0].id
    before = gateway.get(name, item_id, include_vectors=True).items[0]
    del item.fields["path"]
    item.fields["year"].int_value = 2020
    assert outcomes(gateway.upsert(name, item)) == [Result.OUTCOME_STORED]
    after = gateway.get(name, item_id, include_vectors=True).items[0]
    assert dict(after.fields) == {"year": filter_pb2.FieldValue(int_value=2020)}
    assert after.vector == before.vector
    assert gateway.count(name) == 1


def test_texts_of_which_the_model_reads_only_the_beginning_are_told(gateway: Gateway) -> None:
    """Their vectors are equal if their beginnings are: nobody could tell why."""
    name = gateway.create()
    beginning = "a dog and a cat " * 80
    items = [
        item_service_pb2.Item(id=str(number), content=content_pb2.Content(text=words))
        for number, words in enumerate((beginning + "one", beginning + "two", "a dog"))
    ]
    results = gateway.upsert(name, *items)
    assert [result.truncated for result in results] == [True, True, False]
    found = gateway.get(name, "0", "1", include_vectors=True).items
    assert found[0].vector == found[1].vector
    # Nothing was embedded, so nothing was cut.
    again = gateway.upsert(name, *items)
    assert [result.truncated for result in again] == [False] * 3


def test_one_bad_item_never_fails_the_others(gateway: Gateway) -> None:
    name = gateway.create()
    good = photos.photo("chelsea").read_bytes()
    cut = photos.photo("rocket").read_bytes()[:5000]
    results = gateway.upsert(
        name,
        item_service_pb2.Item(content=image(good)),
        item_service_pb2.Item(content=image(cut)),
        item_service_pb2.Item(content=image(b"%PDF-1.7 not a picture")),
        item_service_pb2.Item(content=content_pb2.Content(text="a caption")),
        item_service_pb2.Item(id="x", vector=vector(1, 7)),
        item_service_pb2.Item(),
    )
    assert outcomes(results) == [
        Result.OUTCOME_STORED,
        Result.OUTCOME_FAILED,
        Result.OUTCOME_FAILED,
        Result.OUTCOME_STORED,
        Result.OUTCOME_FAILED,
        Result.OUTCOME_FAILED,
    ]
    reasons = [reason_of(result.error) for result in results if result.HasField("error")]
    assert reasons == [
        "IMAGE_DECODE_FAILED",
        "IMAGE_FORMAT_UNSUPPORTED",
        "VECTOR_DIMENSIONS",
        "CONTENT_MISSING",
    ]
    assert gateway.count(name) == 2


def test_a_failed_item_leaves_what_was_stored_before(gateway: Gateway) -> None:
    name = gateway.create()
    item = photo_item("chelsea")
    item.id = "cat"
    gateway.upsert(name, item)
    broken = item_service_pb2.Item(id="cat", content=image(b"\xff\xd8\xff broken"))
    assert outcomes(gateway.upsert(name, broken)) == [Result.OUTCOME_FAILED]
    assert gateway.hits(name, text("a cat"))[0].id == "cat"


def test_the_last_of_equal_ids_in_a_batch_wins(gateway: Gateway) -> None:
    name = gateway.create()
    first, last = photo_item("chelsea"), photo_item("coffee")
    first.id = last.id = "same"
    assert outcomes(gateway.upsert(name, first, last)) == [Result.OUTCOME_STORED] * 2
    assert gateway.count(name) == 1
    assert gateway.get(name, "same").items[0].fields["path"].string_value == "coffee.png"


def test_text_items_are_found_and_come_back(gateway: Gateway) -> None:
    name = gateway.create()
    caption = content_pb2.Content(text="A small dog runs over the beach")
    stored = gateway.upsert(name, item_service_pb2.Item(content=caption), photo_item("coffee"))
    hit = gateway.hits(name, text("a dog on the beach"))[0]
    assert hit.id == stored[0].id == hashlib.sha256(caption.text.encode()).hexdigest()
    assert hit.text == caption.text
    assert hit.image_uri == ""
    assert gateway.get(name, hit.id).items[0].content == caption


def test_a_given_vector_is_used_as_it_is(gateway: Gateway) -> None:
    name = gateway.create()
    own = photo_item("chelsea")
    own.id = "own"
    own.vector.CopyFrom(vector(3))
    gateway.upsert(name, own, item_service_pb2.Item(id="bare", vector=vector(4)))
    for seed, item_id in ((3, "own"), (4, "bare")):
        hit = gateway.hits(name, search_service_pb2.Query(vector=vector(seed)), limit=1)[0]
        assert (hit.id, hit.score) == (item_id, pytest.approx(1.0, abs=1e-5))
    # The image that came along got its thumbnail all the same.
    assert gateway.get(name, "own", include_thumbnails=True).items[0].thumbnail
    content = hashlib.sha256(own.content.image.data).hexdigest()
    assert gateway.get(name, "own").items[0].digest not in ("", content)
    # Without its vector it is another item, and is embedded.
    own.ClearField("vector")
    assert outcomes(gateway.upsert(name, own)) == [Result.OUTCOME_STORED]
    assert gateway.get(name, "own").items[0].digest == content
    assert gateway.hits(name, text("a cat"), limit=1)[0].id == "own"


def test_a_vector_of_the_model_counts_as_embedded_and_keeps_its_bits(gateway: Gateway) -> None:
    name = gateway.create()
    plain = item_service_pb2.Item(id="a", content=text("a dog").content)
    gateway.upsert(name, plain)
    before = gateway.get(name, "a", include_vectors=True).items[0]
    selected = item_service_pb2.ItemIds(ids=["a"])
    gateway.items.DeleteItems(item_service_pb2.DeleteItemsRequest(collection=name, ids=selected))
    again = item_service_pb2.Item(
        id="a", content=text("a dog").content, vector=before.vector, vector_from_model=True
    )
    assert outcomes(gateway.upsert(name, again)) == [Result.OUTCOME_STORED]
    assert gateway.get(name, "a", include_vectors=True).items[0] == before
    assert outcomes(gateway.upsert(name, plain)) == [Result.OUTCOME_UNCHANGED]
    again.vector_from_model = False  # a vector of the caller's own
    assert outcomes(gateway.upsert(name, again)) == [Result.OUTCOME_STORED]


def test_get_items_keeps_the_order_and_names_what_is_missing(gateway: Gateway) -> None:
    name = gateway.create()
    gateway.upsert(name, *(item_service_pb2.Item(id=i, vector=vector(9)) for i in "abc"))
    answer = gateway.get(name, "c", "nope", "a", "c")
    assert [item.id for item in answer.items] == ["c", "a"]
    assert list(answer.missing_ids) == ["nope"]


def test_deleting_by_id_and_by_filter(gateway: Gateway) -> None:
    name = gateway.create()
    new_items = [
        item_service_pb2.Item(
            id=f"i{n}", vector=vector(n), fields={"year": filter_pb2.FieldValue(int_value=n)}
        )
        for n in range(10)
    ]
    gateway.upsert(name, *new_items)
    old = filter_pb2.Filter(
        comparison=filter_pb2.Comparison(
            field="year",
            operator=filter_pb2.Comparison.OPERATOR_LESS,
            values=[filter_pb2.FieldValue(int_value=4)],
        )
    )

    def delete(**selector: object) -> int:
        request = item_service_pb2.DeleteItemsRequest(collection=name, **selector)  # type: ignore[arg-type]
        return gateway.items.DeleteItems(request, timeout=20).deleted_count

    assert delete(filter=old, dry_run=True) == 4
    assert gateway.count(name) == 10
    assert delete(filter=old) == 4
    assert delete(ids=item_service_pb2.ItemIds(ids=["i4", "i5", "gone"])) == 2
    left = {f"i{n}" for n in range(6, 10)}
    hits = gateway.hits(name, search_service_pb2.Query(vector=vector(0)), limit=100)
    assert {hit.id for hit in hits} == left
    assert gateway.count(name) == 4
    # What was deleted can be stored again at once.
    assert outcomes(gateway.upsert(name, new_items[0])) == [Result.OUTCOME_STORED]
    assert gateway.get(name, "i0").items
