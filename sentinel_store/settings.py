"""Settings of the stores, shared by the gateway and the bulk indexer."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sentinel_core.settings import PublicUri
from sentinel_core.tls import TlsFiles


class StoreSettings(BaseSettings):
    """Where collections and images are kept; both programs read the gateway's variables."""

    model_config = SettingsConfigDict(
        env_prefix="SENTINEL_GATEWAY_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,  # it has the secrets
    )

    milvus_uri: PublicUri = Field(
        "sentinel-data/milvus.db",
        description="Milvus: a path ending in .db for the embedded Milvus Lite, or "
        "http(s)://host:19530 for a server.",
    )
    milvus_token: SecretStr = Field(
        SecretStr(""), description="Milvus credentials, user:password or an API key."
    )
    milvus_ca: Path | None = Field(
        None, description="PEM file with the CA of the Milvus server; none: the system's."
    )
    milvus_cert: Path | None = Field(
        None, description="PEM file with our certificate for Milvus, if it asks for one."
    )
    milvus_key: Path | None = Field(None, description="PEM file with the key of `milvus_cert`.")
    lite_fsync: bool = Field(
        True,
        description="Whether Milvus Lite forces each write to disk before it is acknowledged. "
        "--no-lite-fsync is a little faster, and a power failure can lose the newest items.",
    )
    object_store_uri: PublicUri = Field(
        "sentinel-data/objects",
        description="Where image bytes are kept: a folder, or an fsspec URI such as s3://bucket/x "
        "with keys and endpoint in the store's own variables (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL). One Milvus to an object store.",
    )
    max_image_bytes: int = Field(
        48 * 1024 * 1024,
        ge=1024,
        description="Largest encoded image, in bytes; keep it equal to the workers' limit, and "
        "below the largest message.",
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

    @model_validator(mode="after")
    def _check_milvus_tls(self) -> Self:
        if bool(self.milvus_cert) != bool(self.milvus_key):
            raise ValueError("milvus_cert and milvus_key belong together; set both")
        if self.milvus_cert and not self.milvus_ca:
            raise ValueError("milvus_cert needs milvus_ca")
        if self.milvus_ca and not self.milvus_uri.startswith("https://"):
            raise ValueError("milvus_ca needs an https URI of Milvus")
        return self

    def milvus_tls(self) -> TlsFiles:
        """Return the files for TLS with a Milvus server, which its URI asks for by https."""
        return TlsFiles(self.milvus_cert, self.milvus_key, self.milvus_ca)
