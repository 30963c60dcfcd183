"""The audit log: one line for each call that changes something, and for each that was rejected.

A line says who, what, how much, from where and how it ended. It has no contents and no credentials.
"""

from __future__ import annotations

import logging
import sys
import time
from logging.handlers import WatchedFileHandler

from sentinel_core.access.scopes import Scope
from sentinel_core.calls import Call
from sentinel_core.logging import JsonFormatter

_logger = logging.getLogger("sentinel.audit")
_SCOPES = {Scope.WRITE, Scope.ADMIN}
_REJECTED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_REFUSALS = ("CREDENTIALS_", "QUOTA_EXCEEDED")
# Who is refused at once must not fill the disk: so many lines in a second.
_MOST_REFUSALS = 10
_MOST_NAMES, _LONGEST_NAME = 8, 128


def open_audit_log(place: str) -> None:
    """Send the lines to a file, which rotation may move away, or to standard output for `-`.

    Empty: they go to the log, whatever its level. Raises OSError if the file cannot be opened.
    """
    _logger.setLevel(logging.INFO)
    if not place:
        return
    handler: logging.Handler
    if place == "-":
        handler = logging.StreamHandler(sys.stdout)
    else:
        handler = WatchedFileHandler(place, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    for old in _logger.handlers[:]:
        _logger.removeHandler(old)
        old.close()
    _logger.addHandler(handler)
    _logger.propagate = False


def note(call: Call, code: str) -> None:
    """Write a call's line, if it has one. `code` is how the call ended."""
    is_refused = code in _REJECTED or call.reason.startswith(_REFUSALS)
    if call.scope not in _SCOPES and not is_refused:
        return
    left_out = 0
    if is_refused:
        is_written, left_out = _refusals.count()
        if not is_written:
            return
    _logger.info(
        "audit",
        extra={
            "who": call.caller.id,
            "tenant": call.caller.tenant,
            "method": call.method,
            "scope": call.scope or "",
            "collections": [name[:_LONGEST_NAME] for name in call.collections[:_MOST_NAMES]],
            "items": call.items,
            "peer": call.peer,
            "request_id": call.request_id,
            "code": code,
            "reason": call.reason,
            **({"left_out": left_out} if left_out else {}),
        },
    )


class _Refusals:
    """Counts the lines of calls that were refused at once, by the second."""

    def __init__(self) -> None:
        self._second = 0
        self._written = self._left_out = 0

    def count(self) -> tuple[bool, int]:
        """Return whether to write one more, and how many were left out before it."""
        now = int(time.monotonic())
        if now != self._second:
            self._second, self._written = now, 0
        if self._written >= _MOST_REFUSALS:
            self._left_out += 1
            return False, 0
        self._written += 1
        left_out, self._left_out = self._left_out, 0
        return True, left_out


_refusals = _Refusals()
