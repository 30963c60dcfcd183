"""Read the worker's settings from flags, `SENTINEL_EMBEDDER_…` variables and `.env`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from embedder_server.devices import parse_device, usable_cores
from embedder_server.models.base import ModelChoice
from embedder_server.models.registry import DEFAULT_MODEL
from sentinel_core.settings import MIB, ServerSettings


class EmbedderSettings(ServerSettings):
    """Sentinel's embedder worker: embeds text and images in one vector space, over gRPC."""

    model_config = SettingsConfigDict(
        env_prefix="SENTINEL_EMBEDDER_",
        cli_prog_name="sentinel-embedder",
        cli_show_env_vars=True,
    )

    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        description="Model to serve: the built-in one, a short name such as siglip2-b16 "
        "(`sentinel models`), a hub id such as openai/clip-vit-base-patch32, or a folder.",
    )
    device: Annotated[str, AfterValidator(parse_device)] = Field(
        "cpu", description="Device that runs the model: cpu or cuda:N."
    )
    revision: str | None = Field(
        None,
        description="Commit, tag or branch of the model's repository; none: the catalog's for a "
        "short name, else the newest.",
    )
    runtime: str = Field(
        "auto",
        min_length=1,
        description="Library that runs the model, for example torch or openvino; auto: the fastest "
        "one on this device that keeps the vectors exact.",
    )
    cache_dir: Path | None = Field(
        None, description="Folder for exported models; none: the user's cache folder."
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code from the model's repository; needs a pinned revision."
    )
    cpus: str = Field(
        "", description="Cores to run on, for example 0-7 or 0,2,4; empty: all allowed cores."
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of one forward pass; 0: all usable cores."
    )
    decode_processes: int = Field(
        0, ge=0, le=256, description="Processes that decode images; 0: all usable cores."
    )

    max_contents_per_request: int = Field(
        256, ge=1, le=4096, description="Most contents in one Embed call."
    )
    max_text_chars: int = Field(
        100_000, ge=1, le=10_000_000, description="Most characters in one text."
    )
    max_text_tokens: int = Field(
        0,
        ge=0,
        description="Most tokens of one text, below the model's own limit. Longer texts are cut or "
        "refused, as the call says. Another value is another vector space; 0: the model's limit.",
    )
    max_image_tokens: int = Field(
        0,
        ge=0,
        description="Most tokens of one image, for vision-language models: fewer are faster and "
        "show less detail. Another value is another vector space; 0: as many as published.",
    )
    max_image_bytes: int = Field(
        48 * MIB,
        ge=1,
        le=1024 * MIB,
        description="Most bytes in one encoded image. Cameras' raw files have up to 60 MB.",
    )
    max_image_pixels: int = Field(
        100_000_000,
        ge=1,
        le=1_000_000_000,
        description="Most pixels (width x height) in one image.",
    )
    max_decode_seconds: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Longest time for decoding one image; then its process is killed, and the "
        "image refused.",
    )
    max_queue_items: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Most texts, and most images, of one priority that may wait or run at once; "
        "more get RESOURCE_EXHAUSTED.",
    )
    # Longer than in the gateway: of the two, it should be the one that refuses.
    max_wait_seconds: float = Field(
        1.5,
        gt=0,
        le=600,
        description="Longest time that interactive contents may wait for their turn, at the rate "
        "of the last seconds; more get RESOURCE_EXHAUSTED.",
    )
    max_stream_items: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Most contents of one EmbedStream in work; then reading pauses.",
    )
    max_call_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Longest time for a call, or for one message of a stream, in seconds; also if "
        "the caller sets no deadline.",
    )
    stall_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds on one batch after which the device is stalled: NOT_SERVING.",
    )

    text_batch_tokens: int = Field(
        4096,
        ge=1,
        description="Most tokens, padding included, in one batch of texts; on a CPU at most 1024.",
    )
    text_batch_items: int = Field(
        32,
        ge=1,
        le=4096,
        description="Most texts in one batch; on a CPU more than 16 only if as many more wait.",
    )
    image_batch_items: int = Field(16, ge=1, le=4096, description="Most images in one batch.")
    bulk_text_batch_tokens: int = Field(
        1024,
        ge=1,
        description="Most tokens, padding included, in one bulk batch of texts; an interactive "
        "call waits for at most one bulk batch.",
    )
    bulk_text_batch_items: int = Field(
        16, ge=1, le=4096, description="Most texts in one bulk batch."
    )
    bulk_image_batch_items: int = Field(
        8, ge=1, le=4096, description="Most images in one bulk batch."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_contents_per_request > self.max_queue_items:
            raise ValueError(
                "max_contents_per_request is above max_queue_items: such a call never fits"
            )
        return self

    @property
    def model_choice(self) -> ModelChoice:
        """The model to load."""
        return ModelChoice(
            name=self.model,
            device=self.device,
            threads=self.effective_threads,
            revision=self.revision,
            runtime=self.runtime,
            cache_dir=self.cache_dir,
            trust_remote_code=self.trust_remote_code,
            max_text_tokens=self.max_text_tokens,
            max_image_tokens=self.max_image_tokens,
        )

    @property
    def effective_threads(self) -> int:
        """CPU threads of one forward pass, with 0 replaced."""
        return self.threads or usable_cores()

    @property
    def effective_decode_processes(self) -> int:
        """Processes that decode images, with 0 replaced."""
        return self.decode_processes or usable_cores()
