"""Which models the library in a data folder uses, and what `sentinel up` runs of them.

    DATA/models.json   what the library needs: `sentinel models use` writes it, `up` reads it
    DATA/run/up.json   what runs now: `up` writes it, other commands read it
    DATA/milvus.json   the Milvus to which `sentinel migrate` has moved the library, if it did
    DATA/elsewhere.json  the Milvus that `sentinel up --milvus-uri` was given, if it ever was

Neither process tells the other what to do next. One writes what it wants, the other works towards
it. So each may die at any moment, and the next one continues. A file is replaced in one step.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sentinel_client.cli._console import Failure

# The embedder's own default. Named, so that a library can go back to it by name.
DEFAULT_MODEL = "conse-minilm-lite0"
# Written by the gateway and by `sentinel migrate`; search_server/milvus/move_requests.py.
MIGRATION_REQUEST = Path("run", "migrate.json")
MIGRATION_PROGRESS = Path("run", "migrate-progress.json")
_PLACE = "milvus.json"
_ELSEWHERE = "elsewhere.json"
_WANTED = "models.json"
_RUNNING = Path("run", "up.json")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model as the embedder's flags name it; an empty revision: the model's usual one."""

    model: str
    revision: str = ""

    @property
    def flags(self) -> list[str]:
        revision = ["--revision", self.revision] if self.revision else []
        return ["--model", self.model, *revision]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a library needs.

    Attributes:
        models: One, or two while it changes from the second to the first. New collections get the
            first.
        request: Names this request. A model that failed is started again for another request.
        copies: Collections that `sentinel models use` fills, by the one that each replaces.
    """

    models: tuple[ModelChoice, ...]
    request: str = field(default_factory=lambda: uuid.uuid4().hex)
    copies: dict[str, str] = field(default_factory=dict)


class State(StrEnum):
    """State of the embedders of one model."""

    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class RunningModel:
    """The embedders of one model.

    Attributes:
        why: Why they failed; else empty.
        fingerprint: The first characters of the model's fingerprint, while they serve.
    """

    choice: ModelChoice
    state: State
    why: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """One process.

    Attributes:
        address: Host and port of its gRPC port; of the app, its URL.
        metrics: Host and port of its metrics; empty for the app.
    """

    name: str
    address: str
    pid: int
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """What `sentinel up` runs.

    Attributes:
        pid: Its process.
        gateway: Address of the gateway; empty until it is known.
        request: The `Wanted.request` that it works on.
        servers: Those that have begun to listen.
    """

    pid: int
    gateway: str
    request: str
    models: tuple[RunningModel, ...]
    servers: tuple[RunningServer, ...] = ()

    def find(self, choice: ModelChoice) -> RunningModel | None:
        """Return the embedders of this model; None if there are none."""
        return next((one for one in self.models if one.choice == choice), None)


def is_alive(pid: int) -> bool:
    """Tell whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_wanted(data: Path) -> Wanted | None:
    """Return what the library needs; None if it never changed its model.

    Raises:
        Failure: The file is damaged.
    """
    content = _read(data / _WANTED)
    if content is None:
        return None
    try:
        models = tuple(ModelChoice(**one) for one in content["models"])
        return Wanted(models, content["request"], dict(content["copies"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(data / _WANTED, error) from error


def want(data: Path, wanted: Wanted) -> None:
    """Record what the library needs."""
    replace_file(data / _WANTED, asdict(wanted))


def forget_wanted(data: Path) -> None:
    """Record that the library never changed its model."""
    (data / _WANTED).unlink(missing_ok=True)


def read_milvus_uri(data: Path) -> str | None:
    """Return the Milvus to which `sentinel migrate` has moved the library; None: it did not.

    Raises:
        Failure: The file is damaged.
    """
    return _read_uri(data / _PLACE)


def note_milvus_uri(data: Path, uri: str) -> None:
    """Record that rows whose images are in this library may be in another Milvus than its own."""
    replace_file(data / _ELSEWHERE, {"uri": uri})


def read_noted_milvus_uri(data: Path) -> str | None:
    """Return the Milvus that was noted last; None: never.

    Raises:
        Failure: The file is damaged.
    """
    return _read_uri(data / _ELSEWHERE)


def _read_uri(path: Path) -> str | None:
    content = _read(path)
    try:
        return None if content is None else str(content["uri"])
    except (KeyError, TypeError) as error:
        raise Failure(f"{path} is damaged: it names no Milvus") from error


def read_running(data: Path) -> Running | None:
    """Return what `sentinel up` runs on this folder; None if it does not run."""
    content = _read(data / _RUNNING)
    if content is None:
        return None
    try:
        if not is_alive(content["pid"]):
            return None
        models = [
            RunningModel(
                ModelChoice(**one["choice"]), State(one["state"]), one["why"], one["fingerprint"]
            )
            for one in content["models"]
        ]
        servers = [RunningServer(**one) for one in content.get("servers", ())]
        return Running(
            content["pid"], content["gateway"], content["request"], tuple(models), tuple(servers)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(data / _RUNNING, error) from error


def tell_running(data: Path, running: Running) -> None:
    """Record what runs."""
    replace_file(data / _RUNNING, asdict(running))


def tell_ended(data: Path) -> None:
    """Record that nothing runs any more."""
    (data / _RUNNING).unlink(missing_ok=True)


def write_workers(data: Path, addresses: Sequence[str]) -> str:
    """Write the file of worker addresses that the gateway follows; return its `--workers`."""
    path = data / "run" / "workers"
    _replace_text(path, "".join(f"{one}\n" for one in addresses))
    return path.as_uri()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> Failure:
    return Failure(
        f"{path} is damaged ({error}): delete it, and name the model of this library with --model"
    )


def replace_file(path: Path, content: dict[str, Any]) -> None:
    """Write JSON in one step."""
    _replace_text(path, json.dumps(content, indent=1))


def _replace_text(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
