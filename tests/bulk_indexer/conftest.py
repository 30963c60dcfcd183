"""The bulk indexer's parts, without the data engine; its tests need the extra `bulk`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `bulk` is not installed")

from bulk_indexer.entries import FILE_FIELDS, DatasetEntry
from bulk_indexer.run_folder import Run, RunFolder, claim, write_plan
from bulk_indexer.shard_actor import Job, ShardActor
from embedder_server.in_process import describe_model
from embedder_server.settings import EmbedderSettings
from sentinel_core.calls import Deadline
from sentinel_store.milvus.store import MilvusStore
from sentinel_store.values import FieldType

FIELDS = {
    **FILE_FIELDS,
    "year": FieldType.INT64,
    "ratio": FieldType.DOUBLE,
    "public": FieldType.BOOL,
    "taken_at": FieldType.TIMESTAMP,
    "place": FieldType.GEO,
    "tags": FieldType.STRING_LIST,
}


_ACTORS: list[ShardActor] = []


def deadline() -> Deadline:
    return Deadline.after(None, default_s=30.0)


@asynccontextmanager
async def open_store(uri: str) -> AsyncIterator[MilvusStore]:
    store = MilvusStore(uri, "", threads=4)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="session")
def embedder() -> EmbedderSettings:
    return EmbedderSettings(bulk_image_batch_items=32)


@pytest.fixture(scope="session")
def run(embedder: EmbedderSettings) -> Run:
    model = describe_model(embedder)
    return Run(
        collection="photos",
        model=model.name,
        revision=model.revision,
        fingerprint=model.fingerprint,
        dimensions=model.dimensions,
        fields={name: str(field_type) for name, field_type in FIELDS.items()},
        full_text=(),
        inputs=("somewhere",),
        object_store_uri="",
        thumbnail_side=64,
        shard_items=1000,
    )


def make_actor(
    tmp_path: Path, run: Run, embedder: EmbedderSettings, entries: Sequence[DatasetEntry]
) -> tuple[ShardActor, RunFolder]:
    """Return an actor and its run folder, planned for `entries`."""
    fields = {name: getattr(run, name) for name in Run.__dataclass_fields__}
    fields["object_store_uri"] = str(tmp_path / "objects")
    local = Run(**fields)
    folder = RunFolder(str(tmp_path / "run"))
    claim(folder, local)
    write_plan(folder, entries, local.shard_items)
    actor = ShardActor(Job(folder.uri, local, embedder, 16 * 1024 * 1024))
    _ACTORS.append(actor)
    return actor, folder


@pytest.fixture(autouse=True)
def _close_actors() -> Iterator[None]:
    """End the engines of a test."""
    yield
    while _ACTORS:
        _ACTORS.pop().close()
