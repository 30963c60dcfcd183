"""Errors and results go through pickle and copy, as process pools and caches need."""

from __future__ import annotations

import copy
import dataclasses
import enum
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import sentinel_client
from sentinel_client import F, InvalidArgument, Q, SentinelError

VECTOR = np.ones(4, np.float32)
ERROR = InvalidArgument("TEXT_TOO_LONG", "cut it", field="items[0].content.text")
ITEM = sentinel_client.Item(id="a", image=Path("a.jpg"), vector=VECTOR, fields={"tags": ["x"]})
GRANT = sentinel_client.Grant(sentinel_client.Scope.READ, "photos", is_prefix=False)
MODEL = sentinel_client.ModelVersion("m", "1", "f")
HIT = sentinel_client.Hit(id="a", rank=1, score=0.5, vector=VECTOR)
TIMINGS = sentinel_client.SearchTimings(total=0.5, embed=0.1)
VALUES: list[Any] = [
    sentinel_client.Box(0, 0, 0.5, 1),
    sentinel_client.Caller("key", "acme", (GRANT,), access_controlled=True),
    sentinel_client.ClientConfig(),
    sentinel_client.Collection(
        "c", MODEL, 4, 1, default_consistency=sentinel_client.Consistency.STRONG
    ),
    sentinel_client.DeletionPreview(7, "token"),
    sentinel_client.Diversity(mmr_lambda=0.5),
    sentinel_client.DownloadedImage(b"x", "image/png"),
    sentinel_client.Embedding(vector=VECTOR, error=ERROR, model=MODEL),
    sentinel_client.EmbeddingModel(MODEL, 4, (2, 4), True, True, 77, 64),
    sentinel_client.FieldSchema("n", sentinel_client.FieldType.INT64),
    sentinel_client.FoundItems((ITEM,), ("b",)),
    GRANT,
    sentinel_client.GeoPoint(48.2, 16.37),
    sentinel_client.GroupBy("n"),
    sentinel_client.Health({"": sentinel_client.HealthStatus.SERVING}),
    sentinel_client.Hedging(after=0.5),
    HIT,
    sentinel_client.Hybrid(text="x"),
    sentinel_client.ImageUri("https://example.org/a.jpg"),
    sentinel_client.IngestAck((ITEM,), 0, 0, {0: ERROR}),
    ITEM,
    sentinel_client.ItemPage((ITEM,), "token"),
    sentinel_client.ItemResult("a", sentinel_client.Outcome.FAILED, ERROR),
    sentinel_client.MatchLevels(0.2, 0.3, 100),
    MODEL,
    sentinel_client.Notice(sentinel_client.NoticeKind.TEXT_TRUNCATED, "cut"),
    sentinel_client.RankedCandidate(1, 0.5, 0.9),
    sentinel_client.ReindexProgress(1, 2, failures={"a": "b"}),
    sentinel_client.RetryPolicy(),
    sentinel_client.SearchPage(hits=(HIT,), next_page_token="t", timings=TIMINGS),
    sentinel_client.SearchResult(hits=(HIT,), timings=TIMINGS, collection="c", model=MODEL),
    TIMINGS,
    sentinel_client.Timeouts(),
    sentinel_client.Tls(ca="ca.pem"),
    sentinel_client.VectorIndex(sentinel_client.IndexType.HNSW, {"M": 16}),
    sentinel_client.VectorStorage(sentinel_client.ElementType.INT8, rescore=True),
    F("year"),
    (F("year") >= 2020) & ~F("tags").contains("draft"),
    Q("x") - 0.5 * Q(image=b"x", crop=(0, 0, 1, 0.5)),
]
COPIES: list[Callable[[Any], Any]] = [
    *(
        lambda one, p=p: pickle.loads(pickle.dumps(one, p))
        for p in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ),
    copy.copy,
    copy.deepcopy,
]


def error_classes(base: type[SentinelError] = SentinelError) -> list[type[SentinelError]]:
    return [base, *(one for child in base.__subclasses__() for one in error_classes(child))]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("copied", COPIES)
def test_an_error_is_the_same_afterwards(
    kind: type[SentinelError], copied: Callable[[Any], Any]
) -> None:
    error = kind("REASON", "why", metadata={"limit": "1"}, retry_after=2.0, field="items[0]")
    error.request_id = "id"
    error.code = grpc.StatusCode.OUT_OF_RANGE
    error.add_note("seen at noon")
    again = copied(error)
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == str(error) == "why [REASON]"
    assert again.retryable == error.retryable


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("copied", COPIES)
def test_a_value_is_the_same_afterwards(value: Any, copied: Callable[[Any], Any]) -> None:
    again = copied(value)
    assert type(again) is type(value)
    assert repr(again) == repr(value)
    if isinstance(value, sentinel_client.Hit):
        assert np.array_equal(again.vector, VECTOR)


def test_no_exported_type_is_forgotten_here() -> None:
    exported = {getattr(sentinel_client, name) for name in sentinel_client.__all__}
    types = {one for one in exported if isinstance(one, type) and dataclasses.is_dataclass(one)}
    assert types <= {type(one) for one in VALUES}
    enums = {one for one in exported if isinstance(one, type) and issubclass(one, enum.Enum)}
    assert all(pickle.loads(pickle.dumps(member)) is member for kind in enums for member in kind)


def fail() -> None:
    raise ERROR


def test_a_process_pool_hands_an_error_on() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        error = pool.submit(fail).exception(60)
    assert isinstance(error, InvalidArgument)
    assert error.field == "items[0].content.text"
