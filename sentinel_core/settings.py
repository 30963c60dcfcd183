"""The settings that the servers share; some also serve the bulk indexer. Read at process start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
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
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every one.")
    port: int = Field(0, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="HTTP port of /metrics; 0 picks a free one."
    )
    address_file: Path | None = Field(
        None,
        description="File to write 'gRPC-address metrics-address' to once both ports are open.",
    )
    max_message_bytes: int = Field(
        64 * MIB, ge=MIB, description="Largest gRPC message, in bytes, in either direction."
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


def print_settings_errors(program: str, error: ValidationError) -> None:
    """Print one line per wrong setting to standard error, each beginning with `program`."""
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        print(f"{program}: {where}: {problem['msg']}", file=sys.stderr)
