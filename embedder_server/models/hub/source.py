"""Find the folder of a model that an operator names by hub id or path; download it if needed.

Downloads only the files that a family needs. Without a network, uses what an earlier start
downloaded. Runs nothing of the model.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder_server.models.hub.layout import Layout, find_root, layout_of, read_object
from embedder_server.types import ModelLoadError

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_POINTER = b"version https://git-lfs"
# Only scripts/check_model.py needs `spiece.model`, for the reference tokenizer.
_SMALL_FILES = ["*.json", "*.txt", "*.jinja", "spiece.model", "tokenizer.model"]
# The files of the networks, by layout: those that are tried, the first that a repository has. Large
# ones have their weights in a second file, `….onnx_data` or `….onnx.data`.
_TRANSFORMERS = (["model*.safetensors"], ["pytorch_model*.bin"])
_OPEN_CLIP = (["open_clip_model*.safetensors"],)
_ONNX = (["onnx/text_model.onnx*", "onnx/vision_model.onnx*"],)
_JINA = (["onnx/text_model.onnx*", "onnx/vision_model.onnx*", "onnx/model.onnx*"],)
_IMMICH = ([
    f"{half}/{name}"
    for half in ("textual", "visual")
    for name in ("model.onnx*", "*.json", "*.txt", "*.model")
],)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's folder."""

    path: Path
    name: str  # hub id, or name of the folder
    revision: str  # commit of the hub; empty for a plain folder
    config: dict[str, Any]  # content of `config.json`, or of `open_clip_config.json`

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def layout(self) -> Layout:
        """Raises `ModelLoadError` if it is not known."""
        return layout_of(self.path, self.config)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file; empty if it is missing.

        Raises:
            ModelLoadError: The file is damaged.
        """
        return read_object(self.path / name) if (self.path / name).is_file() else {}

    def preprocessor(self) -> dict[str, Any]:
        """Return how the model's images are prepared: the settings of its image processor.

        transformers 5 writes them into `processor_config.json`, and reads them there first.

        Raises:
            ModelLoadError: The file is missing or damaged.
        """
        nested = self.read_json("processor_config.json").get("image_processor")
        if isinstance(nested, dict):
            return nested
        check_file(self.path / "preprocessor_config.json")
        return self.read_json("preprocessor_config.json")


def is_model_source(spec: str) -> bool:
    """Return whether `spec` can be a folder or a hub id, rather than a name of our own."""
    return Path(spec).is_dir() or "/" in spec or spec.startswith((".", "~"))


def is_commit(revision: str | None) -> bool:
    """Return whether `revision` is a full commit id, which never means other files."""
    return revision is not None and bool(_COMMIT.fullmatch(revision))


def find_model(
    spec: str, revision: str | None, *, with_code: bool = False, offline: bool = False
) -> ModelFolder:
    """Return the folder of `spec`; download it if it is missing.

    Args:
        spec: A folder, or a hub id such as `openai/clip-vit-base-patch32`.
        revision: Commit, tag or branch. For a folder it is checked against the record of the
            download tool.
        with_code: Whether to download the model's Python files, too.
        offline: Whether to look only at what earlier downloads left, which may be incomplete.

    Raises:
        ModelLoadError: There is no such model, files are missing, or they have another revision.
    """
    local = Path(spec).expanduser()
    if local.is_dir():
        found = _recorded_revision(local)
        if revision is not None and revision != found:
            raise ModelLoadError(
                f"{local} is revision {found or 'unknown'}, not {revision}; download that one "
                f"(hf download NAME --revision {revision}) or omit --revision"
            )
        return _open_folder(local, local.resolve().name, found)
    if not _HUB_ID.fullmatch(spec):
        raise ModelLoadError(
            f"there is no folder {spec}, and it is not a hub id such as owner/name"
        )
    small_files = _SMALL_FILES + ["*.py"] * with_code
    path = _download(spec, revision or "main", small_files, offline=offline)
    if not offline:
        if not is_commit(revision):
            logger.warning(
                "the model's revision is not pinned; another start may load other weights",
                extra={"model": spec, "pin_with": f"--revision {path.name}"},
            )
        _download_networks(spec, path)
    return _open_folder(path, spec, path.name)


def _download_networks(spec: str, path: Path) -> None:
    """Download the networks of a model whose small files are in `path`."""
    for patterns in _networks(path):
        # Even if some exist: an interrupted start may have left a part of them.
        _download(spec, path.name, patterns)
        if any(any(path.glob(pattern)) for pattern in patterns if not pattern.endswith(".json")):
            return


def _networks(path: Path) -> Sequence[list[str]]:
    """Return the files that may hold the networks of a model with these small files, best first."""
    model_type = ModelFolder(path, "", "", {}).read_json("config.json").get("model_type")
    open_clip = _OPEN_CLIP if (path / "open_clip_config.json").is_file() else ()
    if model_type == "jina_clip":
        return _JINA
    if model_type:
        return (*_TRANSFORMERS, *open_clip, *_ONNX)
    return open_clip or _IMMICH


def check_file(file: Path) -> None:
    """Raise `ModelLoadError` for a missing file or an incomplete download."""
    if not file.is_file():
        raise ModelLoadError(
            f"{file} is missing: the model is not downloaded completely; download it again"
        )
    with file.open("rb") as stream:
        head = stream.read(len(_POINTER))
        size = file.stat().st_size
        if head == _POINTER:
            raise ModelLoadError(
                f"{file} is a git-lfs pointer, not the file: run git lfs pull in its folder"
            )
        short = size == 0
        if file.suffix == ".safetensors" and not short:
            short = size < _safetensors_size(head[:8], file)
    if short:
        raise ModelLoadError(f"{file} is cut off at {size} bytes: download the model again")


def _safetensors_size(head: bytes, file: Path) -> int:
    """Return the size that the file must have by its own header."""
    length = int.from_bytes(head, "little")
    if length > file.stat().st_size:
        return length + 8
    with file.open("rb") as stream:
        stream.seek(8)
        try:
            tensors = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name[:2] != "__"]
        except (ValueError, KeyError, TypeError) as exc:
            raise ModelLoadError(f"{file} is damaged ({exc}): download the model again") from exc
    return 8 + length + max(ends, default=0)


def _open_folder(path: Path, name: str, revision: str) -> ModelFolder:
    root, config = find_root(path)
    check_file(root / config)
    return ModelFolder(root, name, revision, read_object(root / config))


def _recorded_revision(path: Path) -> str:
    """Return the commit that the download tool recorded in the folder, or an empty string."""
    path = path.resolve()
    if path.parent.name == "snapshots":
        return path.name
    record = path / ".cache" / "huggingface" / "download" / "config.json.metadata"
    if record.is_file():
        return record.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    return ""


def _download(spec: str, revision: str, patterns: list[str], *, offline: bool = False) -> Path:
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as exc:
        raise ModelLoadError(
            f"{spec} must be downloaded, which needs huggingface_hub: "
            "pip install '.[hub]' in Sentinel's folder, or give a model's folder"
        ) from exc
    request: dict[str, Any] = {
        "repo_id": spec,
        "revision": revision,
        "allow_patterns": patterns,
        # Subfolders hold exports for other runtimes, unless we name them.
        "ignore_patterns": None if any("/" in one for one in patterns) else ["*/*"],
    }
    try:
        return Path(snapshot_download(**request, local_files_only=offline))
    except hub.RevisionNotFoundError as exc:
        raise ModelLoadError(
            f"{spec} has no revision {revision}; see its commits on the hub"
        ) from exc
    except hub.RepositoryNotFoundError as exc:
        raise ModelLoadError(
            f"the hub has no model {spec}, or it is private: set HF_TOKEN, or check the name"
        ) from exc
    # Every HTTP library has its own error classes. Look for an earlier download.
    except Exception as error:
        if _is_disk_full(error):
            raise ModelLoadError(
                f"there is no space to download {spec} ({error}): free some, or set HF_HOME"
            ) from error
        try:
            return Path(snapshot_download(**request, local_files_only=True))
        except Exception as exc:
            raise ModelLoadError(
                f"{spec} at revision {revision} is not downloaded and the hub cannot be reached "
                f"({type(error).__name__}); download it where there is a network and give its "
                f"folder. On this disk: {', '.join(downloaded_models()) or 'no model'}"
            ) from exc


def downloaded_models() -> list[str]:
    """Return the hub ids with a `config.json` in the hub's cache on this disk, sorted."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json")
    names = (folder.parents[2].name.removeprefix("models--") for folder in folders)
    return sorted({name.replace("--", "/", 1) for name in names})


def _is_disk_full(error: BaseException) -> bool:
    """Return whether `error`, or one of its causes, is a full disk or quota."""
    cause: BaseException | None = error
    while cause is not None:
        # The hub's transfer library has no class for it.
        if "no space left" in str(cause).lower():
            return True
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
