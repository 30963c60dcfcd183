"""The settings that the servers share; some also serve the bulk indexer. Read at process start."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sentinel_core.memory import default_limit
from sentinel_core.tls import TlsFiles

MIB = 1024 * 1024
# Largest request of a method without contents: 1,000 ids, a filter, a schema.
SMALL_REQUEST_BYTES = 2 * MIB
# A stream makes progress or ends much earlier; this ends what was forgotten.
LONGEST_STREAM_S = 86_400.0
# Four messages are received at once at least; the rest is for what becomes of them.
_MESSAGES_IN_MEMORY = 8
# Where Docker and Kubernetes put files of secrets.
SECRETS_FOLDER = Path("/run/secrets")
# Azure's `abfs://container@account` has no password; over HTTP a user alone may be a token.
_PASSWORD = re.compile(r"://[^/,\s]*:[^/,\s]*@|https?://[^/,\s]*@", re.IGNORECASE)


def _without_password(value: str) -> str:
    if _PASSWORD.search(value):
        raise ValueError(
            "everybody can read a URI in the command line and in the log; leave out the user and "
            "the password, and use milvus_token or the object store's own variables"
        )
    return value


# A URI, or several, without secrets.
PublicUri = Annotated[str, AfterValidator(_without_password)]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], Field(description="Least severe log level.")
]
LogStyle = Annotated[
    Literal["auto", "json", "text"],
    Field(description="Log format; auto: text on a terminal, JSON elsewhere."),
]


class ServerSettings(BaseSettings):
    """Base of each process's settings; read from flags, then environment, then `.env`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,  # Compose passes an unset `VAR: ${VAR:-}` as empty
        extra="ignore",
        hide_input_in_errors=True,  # it has the secrets
        secrets_dir=SECRETS_FOLDER if SECRETS_FOLDER.is_dir() else None,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; 0.0.0.0 for every one. Others than this machine's own "
        "need TLS and credentials, or `insecure`.",
    )
    port: int = Field(0, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="HTTP port of /metrics; 0 picks a free one."
    )
    address_file: Path | None = Field(
        None,
        description="File to write 'gRPC-address metrics-address' to once both ports are open.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file with the certificate of both ports and those up to its CA. Read "
        "again when it changes.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the key of `tls_cert`.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with the CAs of clients. Then every connection needs a client "
        "certificate; only the probes /livez and /readyz do not.",
    )
    insecure: bool = Field(
        False, description="Listen beyond this machine without TLS or without credentials."
    )
    keys_file: Path | None = Field(
        None,
        description="File of API keys, which `sentinel keys` writes. Then every call needs a key "
        "or a token. Read again when it changes.",
    )
    audit_log: str = Field(
        "",
        description="File for the audit log, or - for standard output; empty: the log.",
    )
    reflection: bool = Field(True, description="Describe the services to clients that ask.")
    max_message_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        description="Largest gRPC message, in bytes, in either direction. Responses end at 3.5 MiB "
        "unless their callers ask for more.",
    )
    memory_bytes: int = Field(
        0,
        ge=0,
        description="Bytes that requests may hold at once: messages, decoded pixels, unread "
        "responses. Further work waits or gets RESOURCE_EXHAUSTED. 0: 60 % of the container's "
        "memory, or a quarter of the machine's.",
    )
    max_connections: int = Field(
        2000, ge=1, description="Most connections to the gRPC port; the newest above it is dropped."
    )
    max_connection_seconds: float = Field(
        3600.0,
        gt=0,
        le=86_400,
        description="Age at which a connection ends, about, so that clients spread over replicas.",
    )
    connection_grace_seconds: float = Field(
        3600.0,
        gt=0,
        le=86_400,
        description="Seconds that calls in progress get when their connection has reached its age.",
    )
    drain_pause_seconds: float = Field(
        0.0,
        ge=0,
        le=60,
        description="Seconds between NOT_SERVING and refusing calls, for balancers to notice.",
    )
    drain_seconds: float = Field(
        20.0, ge=0, le=600, description="Seconds that calls in flight get to finish on shutdown."
    )
    log_level: LogLevel = "info"
    log_style: LogStyle = "auto"

    @model_validator(mode="after")
    def _is_secure(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together; set both")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs TLS; set tls_cert and tls_key")
        if self.insecure or is_loopback(self.host):
            return self
        for is_set, what in (
            (self.tls_cert, "TLS: set tls_cert and tls_key (`sentinel certs` makes some)"),
            (self.has_credentials, "credentials: set keys_file (see `sentinel keys`)"),
        ):
            if not is_set:
                raise ValueError(
                    f"{self.host} can be reached from other machines, and there is no {what}; or "
                    "listen on 127.0.0.1; or set `insecure` if something else protects the port"
                )
        return self

    @property
    def has_credentials(self) -> bool:
        """Whether callers must prove who they are."""
        return bool(self.keys_file or self.tls_client_ca)

    def tls(self) -> TlsFiles | None:
        """Return the files of our own TLS; None for none."""
        if self.tls_cert is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @model_validator(mode="after")
    def _messages_fit_into_memory(self) -> Self:
        memory = self.memory_bytes or default_limit()
        if memory < _MESSAGES_IN_MEMORY * self.max_message_bytes:
            raise ValueError(
                f"memory_bytes is {memory}, and must be {_MESSAGES_IN_MEMORY} times "
                f"max_message_bytes, {self.max_message_bytes}; give the process more memory, or "
                "allow smaller messages"
            )
        return self


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_secret_flags(program: str, settings: type[BaseSettings], words: Sequence[str]) -> bool:
    """Tell whether the command line has a secret, which every process could see; say what to do."""
    for name, field in settings.model_fields.items():
        if SecretStr not in (field.annotation, *get_args(field.annotation)):
            continue
        flag = f"--{name.replace('_', '-')}"
        if any(word == flag or word.startswith(f"{flag}=") for word in words):
            print(f"{program}: {secret_flag_error(settings, name)}", file=sys.stderr)
            return True
    return False


def secret_flag_error(settings: type[BaseSettings], name: str) -> str:
    """Return why a secret has no flag, and what to use in its place."""
    variable = f"{settings.model_config['env_prefix']}{name}".upper()
    return (
        f"--{name.replace('_', '-')}: every program can read a command line; use the variable "
        f"{variable}, or a file of that name in {SECRETS_FOLDER}"
    )


def print_settings_errors(program: str, error: ValidationError) -> None:
    """Print one line per wrong setting to standard error, each beginning with `program`."""
    for line in settings_errors(error):
        print(f"{program}: {line}", file=sys.stderr)


def settings_errors(error: ValidationError) -> list[str]:
    """Return one line per wrong setting."""
    return [
        f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg']}"
        for problem in error.errors()
    ]
