"""Settings that both servers have. Read once, at the process edge, in each `app.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class ServerSettings(BaseSettings):
    """One class per process inherits this; flags, environment and `.env` set it, in that order."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,  # Compose passes `VAR: ${VAR:-}` on as an empty one
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
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log level."
    )
    log_style: Literal["auto", "json", "text"] = Field(
        "auto", description="Log format; auto: text on a terminal, JSON elsewhere."
    )
