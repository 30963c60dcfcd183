"""A small file that is read again when it changes: keys, quotas, our own secrets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_EVERY_S = 0.25


class FollowedFile(Generic[T]):
    """What a file says, as it is now. Use from one thread.

    Raises ValueError if it cannot be read at the start. Later, an unreadable file leaves the value
    as it is, and the log says why.
    """

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        """Read it. `parse` makes the value of the text, or raises ValueError."""
        self._path = path
        self._parse = parse
        self._complaint = ""
        self._looked_at = time.monotonic()
        self._stamp, self._value = self._read()

    def value(self) -> T:
        """Return the value; the same object until the file changes. At most 0.25 s old."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._look()
        return self._value

    def _look(self) -> None:
        try:
            if self._stamp != _stamp(self._path):
                self._stamp, self._value = self._read()
                logger.info("file read", extra={"path": str(self._path)})
            self._complaint = ""
        except (OSError, ValueError) as error:
            if str(error) != self._complaint:
                logger.error("file not read", extra={"path": str(self._path), "why": str(error)})
            self._complaint = str(error)

    def _read(self) -> tuple[tuple[int, int, int], T]:
        try:
            stamp = _stamp(self._path)
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self._path} cannot be read: {error}") from error
        try:
            return stamp, self._parse(text)
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}; see docs/security.md") from error


def secret(text: str) -> str:
    """Return the secret that a file holds. Raises ValueError if it cannot be sent in a header."""
    if not text.isascii():
        raise ValueError("a secret has ASCII characters only")
    return text.strip()


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size
