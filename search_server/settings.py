"""Settings of the gateway: flags, environment (SENTINEL_GATEWAY_…), `.env`."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from sentinel_core.access.keys import PREFIX
from sentinel_core.access.tokens import ALGORITHMS, TokenRules
from sentinel_core.settings import PublicUri, ServerSettings, is_loopback
from sentinel_core.tls import TlsFiles
from sentinel_store.settings import StoreSettings

# Known to this process only.
_RANDOM_KEY = secrets.token_bytes(32)
_WORKER = re.compile(r"(dns:///[^/:\s]+|\[[0-9a-fA-F:]+\]|[^/:\s\[\]]+):([0-9]{1,5})")
_WORKER_FILE = re.compile(r"file:///[^\s?#]+")


def _check_workers(value: str) -> str:
    for entry in _split(value):
        found = _WORKER.fullmatch(entry)
        is_address = found is not None and 0 < int(found[2]) < 65536
        if not is_address and not _WORKER_FILE.fullmatch(entry):
            raise ValueError(
                f"{entry!r} is not a worker; use host:port, dns:///name:port for one worker at "
                "each address of the name, or file:///path for one at each line of a file"
            )
    return value


def _check_is_no_key(value: Path | None) -> Path | None:
    if value is not None and str(value).startswith(PREFIX):
        raise ValueError("this is a key itself; name a file that has it")
    return value


def _split(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _place(uri: str) -> str:
    """Return a folder in one spelling, with a slash at its end."""
    scheme, _, rest = uri.rpartition("://")
    if scheme == "file":
        rest = unquote(rest)
    folder = str(Path(rest).resolve()) if scheme in ("", "file") else f"{scheme}://{rest}"
    return folder.rstrip("/") + "/"


class GatewaySettings(ServerSettings, StoreSettings):
    """All settings of a gateway process."""

    # The flags' form of `ServerSettings`: the last base sets what it does not name to defaults.
    model_config = ServerSettings.model_config | SettingsConfigDict(
        env_prefix="SENTINEL_GATEWAY_", cli_prog_name="sentinel-gateway"
    )

    port: int = Field(50050, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    workers: Annotated[str, AfterValidator(_check_workers)] = Field(
        "127.0.0.1:50051",
        description="Embedder workers, separated by commas: host:port; dns:///name:port for one "
        "worker at each address of the name, looked up every few seconds; file:///path for one at "
        "each line of a file, which is read again when it changes. New collections get the model "
        "of the first.",
    )
    worker_ca: Path | None = Field(
        None, description="PEM file with the CA of the workers; then calls to them use TLS."
    )
    worker_cert: Path | None = Field(
        None, description="PEM file with our certificate for workers, if they ask for one."
    )
    worker_key: Path | None = Field(None, description="PEM file with the key of `worker_cert`.")
    worker_api_key_file: Annotated[Path | None, AfterValidator(_check_is_no_key)] = Field(
        None, description="File with our API key for workers, if they ask for one."
    )
    jwt_issuer: str = Field(
        "", description="Issuer of JSON Web Tokens; then calls may bring one instead of a key."
    )
    jwt_audience: str = Field("", description="Audience that a token must name.")
    jwt_keys: PublicUri = Field("", description="File or https URL of the issuer's keys, a JWKS.")
    jwt_algorithms: str = Field(
        "RS256,ES256,EdDSA",
        description="Algorithms that may sign tokens, separated by commas; asymmetric ones only.",
    )
    jwt_leeway_seconds: float = Field(
        30.0, ge=0, le=600, description="Difference of the issuer's clock, in seconds."
    )
    jwt_scope_claim: str = Field("scope", description="Claim that names scopes and roles.")
    jwt_tenant_claim: str = Field("tenant", description="Claim that names the tenant.")
    quotas_file: Path | None = Field(
        None,
        description="File with quotas of callers and tenants (docs/security.md). Read again when "
        "it changes.",
    )
    quota_redis_url: SecretStr = Field(
        SecretStr(""),
        description="Redis that shares quotas among gateways, redis:// or rediss://; empty: each "
        "gateway has quotas of its own.",
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
        120.0,
        gt=0,
        le=3600,
        description="Longest time a write or an Embed call may take, in seconds.",
    )
    max_items_per_upsert: int = Field(
        256,
        ge=1,
        le=1024,
        description="Most items in one UpsertItems call, and contents in one Embed.",
    )
    max_searches_in_flight: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Most searches in work at once, and as many reads; more get "
        "RESOURCE_EXHAUSTED.",
    )
    max_items_in_flight: int = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="Most items of UpsertItems in work at once, and as many contents of Embed and "
        "Rank; more get RESOURCE_EXHAUSTED.",
    )
    max_wait_seconds: float = Field(
        1.0,
        gt=0,
        le=600,
        description="Longest time that searches and reads may wait for their turn, at the rate of "
        "the last seconds; more get RESOURCE_EXHAUSTED.",
    )
    query_cache_entries: int = Field(
        10_000,
        ge=0,
        description="Most cached embeddings of text queries, 4 bytes per dimension each; 0: none.",
    )
    match_levels: bool = Field(
        True,
        description="Whether hits of text queries tell how good they are (docs/queries.md). For "
        "most models, the gateway finds that out by searches of its own, in the background.",
    )
    image_uri_places: PublicUri = Field(
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

    reference_places: PublicUri = Field(
        "",
        description="Folders whose images may be stored by reference, separated by commas: "
        "file:///folder/, or file:/// for all files of this machine (docs/security.md). "
        "Empty: none.",
    )
    reference_timeout_seconds: float = Field(
        10.0, gt=0, le=600, description="Longest time to read one such image, in seconds."
    )

    library_folder: Path | None = Field(
        None,
        description="Folder of `sentinel up`, from which `sentinel migrate` asks this gateway to "
        "move to another Milvus. `check` and `collect-orphans` look after it; without it, after "
        "your library, if no Milvus and no object store is set.",
    )

    page_token_secret: SecretStr = Field(
        SecretStr(""),
        description="Key that signs page tokens and confirmation tokens; the same for all gateways "
        "behind one address. "
        "Empty: a random key on Milvus Lite; on a Milvus server, a key derived from milvus_uri and "
        "milvus_token, which must then be the same for all gateways. Set it if there is no "
        "milvus_token: anyone who knows the URI could forge page tokens.",
    )
    page_token_seconds: float = Field(
        3600.0, gt=0, le=86_400, description="How long a page token is valid, in seconds."
    )
    protect: bool = Field(
        False,
        description="Whether deleting a collection, or many items by a filter, needs the "
        "confirmation token of a dry run.",
    )
    protect_items: int = Field(
        1000, ge=0, description="Most items that a filter may delete without such a token."
    )

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        named = (self.jwt_issuer, self.jwt_audience, self.jwt_keys)
        if any(named) and not all(named):
            raise ValueError("jwt_issuer, jwt_audience and jwt_keys belong together; set all three")
        unknown = set(_split(self.jwt_algorithms)) - set(ALGORITHMS)
        if unknown:
            raise ValueError(
                f"jwt_algorithms: {', '.join(sorted(unknown))} cannot be used; use some of "
                f"{', '.join(ALGORITHMS)}"
            )
        if self.jwt_keys.startswith("http://"):
            raise ValueError("jwt_keys: use https, or whoever is on the way can be anybody")
        if self.has_credentials and self.page_tokens_can_be_guessed():
            raise ValueError(
                "with keys or tokens on a Milvus server, set page_token_secret: whoever knows "
                "milvus_uri and milvus_token could forge page tokens"
            )
        if self.quotas_file and not self.has_credentials:
            raise ValueError("quotas_file needs callers who prove who they are; set keys_file")
        if self.has_credentials and self._places_have_stored_images():
            raise ValueError(
                "image_uri_places covers the object store, and every caller could have the images "
                "of others read there; name other places"
            )
        if self.worker_api_key_file and not (self.worker_ca or self._all_workers_are_here()):
            raise ValueError("worker_api_key_file needs TLS with workers; set worker_ca")
        if bool(self.worker_cert) != bool(self.worker_key):
            raise ValueError("worker_cert and worker_key belong together; set both")
        if self.worker_cert and not self.worker_ca:
            raise ValueError("worker_cert needs TLS with workers; set worker_ca")
        return self

    def _places_have_stored_images(self) -> bool:
        stored = _place(self.object_store_uri)
        places = map(_place, self.uri_places())
        return any(stored.startswith(place) or place.startswith(stored) for place in places)

    def _all_workers_are_here(self) -> bool:
        hosts = (entry.rpartition(":")[0] for entry in self.worker_entries())
        return all(is_loopback(host) for host in hosts)

    @property
    def has_credentials(self) -> bool:
        return bool(self.jwt_issuer) or super().has_credentials

    def token_rules(self) -> TokenRules | None:
        """Return what tokens must have; None if there are none."""
        if not self.jwt_issuer:
            return None
        return TokenRules(
            self.jwt_issuer,
            self.jwt_audience,
            self.jwt_keys,
            _split(self.jwt_algorithms),
            self.jwt_leeway_seconds,
            self.jwt_scope_claim,
            self.jwt_tenant_claim,
        )

    def worker_tls(self) -> TlsFiles | None:
        """Return the files for TLS with workers; None for none."""
        if self.worker_ca is None:
            return None
        return TlsFiles(self.worker_cert, self.worker_key, self.worker_ca)

    def page_token_key(self) -> bytes:
        """Return the key that signs page tokens and confirmation tokens."""
        secret = self.page_token_secret.get_secret_value()
        if not secret and "://" not in self.milvus_uri:
            return _RANDOM_KEY  # only this process opens the file, so no replica needs the key
        return (secret or f"{self.milvus_uri}\0{self.milvus_token.get_secret_value()}").encode()

    def page_tokens_can_be_guessed(self) -> bool:
        """Tell whether callers of a Milvus server could guess the key."""
        return "://" in self.milvus_uri and not self.page_token_secret.get_secret_value()

    def page_tokens_can_be_forged(self) -> bool:
        """Tell whether the key can be guessed: on a Milvus server, without token and secret."""
        secret = self.page_token_secret or self.milvus_token
        return "://" in self.milvus_uri and not secret.get_secret_value()

    def worker_entries(self) -> list[str]:
        """Return the entries of `workers`, as `_check_workers` accepts them."""
        return _split(self.workers)

    def uri_places(self) -> list[str]:
        """Return the places from which images may be fetched."""
        return _split(self.image_uri_places)

    def original_places(self) -> list[str]:
        """Return the folders whose images may be stored by reference."""
        return _split(self.reference_places)
