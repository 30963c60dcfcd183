"""Settings of the gateway: flags, environment (SENTINEL_GATEWAY_…), `.env`."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from sentinel_core.settings import ServerSettings


class GatewaySettings(ServerSettings):
    """Everything a gateway process can be told."""

    model_config = SettingsConfigDict(
        env_prefix="SENTINEL_GATEWAY_", cli_prog_name="sentinel-gateway"
    )

    port: int = Field(50050, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    workers: str = Field(
        "127.0.0.1:50051",
        description="Embedder workers as host:port, separated by commas.",
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
        description="Where image bytes are kept: a folder or an fsspec URI such as s3://bucket/x.",
    )
    search_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="Longest time a search or read may take, in seconds."
    )
    write_timeout_seconds: float = Field(
        120.0, gt=0, le=3600, description="Longest time a write may take, in seconds."
    )
    max_items_per_upsert: int = Field(
        256, ge=1, le=1024, description="Most items in one UpsertItems call."
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
        16, ge=1, le=256, description="Most Milvus calls at once; further ones wait."
    )

    def worker_addresses(self) -> list[str]:
        """Return the workers' addresses."""
        return [address.strip() for address in self.workers.split(",") if address.strip()]
