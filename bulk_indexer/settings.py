"""Define the settings of a bulk index job: flags, environment (SENTINEL_BULK_…), `.env`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from bulk_indexer.entries import FILE_FIELDS
from embedder_server.settings import EmbedderSettings
from sentinel_core.settings import LogLevel, LogStyle, PublicUri, ServerSettings
from sentinel_store.settings import StoreSettings
from sentinel_store.values import FieldType


class BulkSettings(BaseSettings):
    """The settings of a run. Those that are not set here are the embedder's and the gateway's."""

    model_config = ServerSettings.model_config | SettingsConfigDict(
        env_prefix="SENTINEL_BULK_", env_ignore_empty=False
    )

    inputs: CliPositionalArg[list[PublicUri]] = Field(description="What to index.")
    run: PublicUri = Field(
        min_length=1,
        description="Folder of this run: a local path, or a URI that all machines reach. It keeps "
        "the plan, rows, reports and progress.",
    )
    collection: str = Field("photos", description="The collection; created if it is missing.")
    fields: str = Field(
        "",
        description="Additional fields of a new collection, as name:type,…; types: string, int64, "
        "double, bool, string_list, timestamp, geo.",
    )
    deliver: Literal["upsert", "import", "files"] = Field(
        "upsert",
        description="How rows get into Milvus. upsert: written as a gateway does, to any Milvus; "
        "import: a server imports files; files: not at all, rows stay in the run folder.",
    )
    import_uri: str = Field(
        "",
        description="For import: a folder in Milvus's own bucket, such as s3://milvus/imports.",
    )
    image_column: str = Field(
        "",
        description="Manifests: column of the path or URI.  [default: uri, url, path, image…]",
    )
    id_column: str = Field(
        "id",
        description="Manifests: column of the id; without one, the SHA-256 of the file is the id.",
    )
    text_column: str = Field(
        "text", description="Manifests: column of the text of items without a file."
    )
    shard_items: int = Field(
        10_000, ge=1, le=1_000_000, description="Items of a shard, the unit of work and of retries."
    )
    ray_address: str = Field(
        "", description="Ray cluster, such as auto or ray://head:10001.  [default: this machine]"
    )
    actors: int = Field(
        0, ge=0, le=100_000, description="Embedding actors.  [default: one per GPU or machine]"
    )
    cpus_per_actor: int = Field(
        0, ge=0, le=1024, description="Cores of an actor.  [default: an equal share of its machine]"
    )
    batch_items: int = Field(
        32, ge=1, le=4096, description="Largest batch of images on the device."
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="What an actor uses: cores only, or a GPU."
    )
    model: str | None = Field(None, description="Name of the model.  [default: the embedder's]")
    revision: str | None = Field(None, description="Commit of a model from the hub.")
    runtime: str | None = Field(
        None, description="Library for the model.  [default: the embedder's]"
    )
    milvus_uri: str | None = Field(None, description="Milvus.  [default: the gateway's]")
    milvus_token: SecretStr | None = Field(None, description="Milvus credentials.")
    object_store_uri: str | None = Field(
        None, description="Where image bytes are stored.  [default: the gateway's]"
    )
    log_level: LogLevel = "info"
    log_style: LogStyle = "auto"

    @field_validator("fields")
    @classmethod
    def _check_fields(cls, value: str) -> str:
        _fields_from(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.deliver == "import" and not self.import_uri:
            raise ValueError("--deliver import needs --import-uri, a folder in Milvus's bucket")
        return self

    def declared_fields(self) -> dict[str, FieldType]:
        """Return the fields of a new collection."""
        return {**FILE_FIELDS, **_fields_from(self.fields)}

    def embedder(self) -> EmbedderSettings:
        """Return the embedder's settings; those set here win."""
        return EmbedderSettings(
            **self._set("model", "revision", "runtime"),
            device="cuda:0" if self.device == "cuda" else "cpu",  # an actor sees only its own GPU
            bulk_image_batch_items=self.batch_items,
        )

    def storage(self) -> StoreSettings:
        """Return the gateway's storage settings; those set here win."""
        return StoreSettings(**self._set("milvus_uri", "milvus_token", "object_store_uri"))

    def _set(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _fields_from(text: str) -> dict[str, FieldType]:
    fields: dict[str, FieldType] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, kind = part.partition(":")
        try:
            fields[name.strip()] = FieldType(kind.strip() or "string")
        except ValueError as error:
            known = ", ".join(FieldType)
            raise ValueError(f"{part!r} is not name:type; types are {known}") from error
    return fields
