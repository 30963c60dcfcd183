"""Settings of the gateway: flags, environment (SENTINEL_GATEWAY_…), `.env`."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from sentinel_core.settings import ServerSettings
from sentinel_store.settings import StoreSettings

# Known to this process only.
_RANDOM_KEY = secrets.token_bytes(32)
_WORKER = re.compile(r"(dns:///[^/:\s]+|\[[0-9a-fA-F:]+\]|[^/:\s\[\]]+):([0-9]{1,5})")


def _check_workers(value: str) -> str:
    for entry in _entries(value):
        found = _WORKER.fullmatch(entry)
        if found is None or not 0 < int(found[2]) < 65536:
            raise ValueError(
                f"{entry!r} is not a worker; use host:port, or dns:///name:port for one worker at "
                "each address of the name"
            )
    return value


def _entries(workers: str) -> list[str]:
    return [entry.strip() for entry in workers.split(",") if entry.strip()]


class GatewaySettings(ServerSettings, StoreSettings):
    """All settings of a gateway process."""

    # The flags' form of `ServerSettings`: the last base sets what it does not name to defaults.
    model_config = ServerSettings.model_config | SettingsConfigDict(
        env_prefix="SENTINEL_GATEWAY_", cli_prog_name="sentinel-gateway"
    )

    port: int = Field(50050, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    workers: Annotated[str, AfterValidator(_check_workers)] = Field(
        "127.0.0.1:50051",
        description="Embedder workers, separated by commas: host:port, or dns:///name:port for one "
        "worker at each address of the name, looked up every few seconds.",
    )
    presign_seconds: int = Field(
        3600,
        ge=0,
        le=604_800,
        description="How long a presigned image URL is valid, in seconds, if the object store can "
        "presign; 0: return the plain URI.",
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
    query_cache_entries: int = Field(
        10_000,
        ge=0,
        description="Most cached embeddings of text queries, 4 bytes per dimension each; 0: none.",
    )
    image_uri_places: str = Field(
        "",
        description="Places from which images may be fetched by URI, separated by commas: "
        "https://host/folder/, s3://bucket/prefix/, file:///folder/. Empty: none.",
    )
    image_uri_private: bool = Field(
        False,
        description="Whether the hosts of these places may have private or loopback addresses.",
    )
    image_uri_timeout_seconds: float = Field(
        10.0, gt=0, le=600, description="Longest time to fetch one image, in seconds."
    )
    image_uri_redirects: int = Field(
        3,
        ge=0,
        le=10,
        description="Most HTTP redirects for one image; each must lead to a listed place.",
    )
    image_uri_fetches: int = Field(
        16, ge=1, le=256, description="Most images fetched at once; further ones wait."
    )

    page_token_secret: SecretStr = Field(
        SecretStr(""),
        description="Key that signs page tokens; the same for all gateways behind one address. "
        "Empty: a random key on Milvus Lite; on a Milvus server, a key derived from milvus_uri and "
        "milvus_token, which must then be the same for all gateways. Set it if there is no "
        "milvus_token: anyone who knows the URI could forge page tokens.",
    )
    page_token_seconds: float = Field(
        3600.0, gt=0, le=86_400, description="How long a page token is valid, in seconds."
    )

    def page_token_key(self) -> bytes:
        """Return the key that signs page tokens."""
        secret = self.page_token_secret.get_secret_value()
        if not secret and "://" not in self.milvus_uri:
            return _RANDOM_KEY  # only this process opens the file, so no replica needs the key
        return (secret or f"{self.milvus_uri}\0{self.milvus_token.get_secret_value()}").encode()

    def page_tokens_can_be_forged(self) -> bool:
        """Tell whether the key can be guessed: on a Milvus server, without token and secret."""
        secret = self.page_token_secret or self.milvus_token
        return "://" in self.milvus_uri and not secret.get_secret_value()

    def worker_entries(self) -> list[str]:
        """Return the entries of `workers`, each `host:port` or `dns:///name:port`."""
        return _entries(self.workers)

    def uri_places(self) -> list[str]:
        """Return the places from which images may be fetched."""
        return [place.strip() for place in self.image_uri_places.split(",") if place.strip()]
