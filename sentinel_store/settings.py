"""Settings of the stores, shared by the gateway and the bulk indexer."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """Where collections and images are kept; both programs read the gateway's variables."""

    model_config = SettingsConfigDict(
        env_prefix="SENTINEL_GATEWAY_", env_file=".env", env_ignore_empty=True, extra="ignore"
    )

    milvus_uri: str = Field(
        "sentinel-data/milvus.db",
        description="Milvus: a path ending in .db for the embedded Milvus Lite, or "
        "http(s)://host:19530 for a server.",
    )
    milvus_token: SecretStr = Field(
        SecretStr(""), description="Milvus credentials, user:password or an API key."
    )
    object_store_uri: str = Field(
        "sentinel-data/objects",
        description="Where image bytes are kept: a folder, or an fsspec URI such as s3://bucket/x "
        "with keys and endpoint in the store's own variables (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL). One Milvus to an object store.",
    )
    max_image_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        description="Largest encoded image, in bytes; keep it equal to the workers' limit.",
    )
    thumbnail_side: int = Field(
        256, ge=16, le=1024, description="Longest side of stored thumbnails, in pixels."
    )
    milvus_threads: int = Field(
        16,
        ge=1,
        le=256,
        description="Most blocking calls of Milvus at once; further calls wait. Reads of a Milvus "
        "server do not block and do not count.",
    )
