"""Who may use Milvus Lite's rows at the same time: reads together, each write alone.

Lite 3.2.2 looks into its segments first and into memory second, and a flush takes rows from memory
to a segment. A search, count or look-up that a flush begins in the middle of finds them in neither.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class LiteGate:
    """Use from threads, one of them at most writing.

    Neither waits for ever: a write that waits goes before reads that come later, and reads that
    waited for a write go before the next one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reading = 0
        self._reads_waiting = 0
        self._reads_first = 0
        self._is_writing = False
        self._write_waits = False

    @contextmanager
    def reading(self, timeout_s: float) -> Iterator[None]:
        """Wait until nothing is written; nothing will be until the end of the block.

        Raises:
            TimeoutError: It took longer than `timeout_s`.
        """
        with self._changed:
            self._reads_waiting += 1
            try:
                if not self._changed.wait_for(self._may_read, timeout_s):
                    raise TimeoutError
            finally:
                self._reads_waiting -= 1
                self._changed.notify_all()
            self._reads_first = max(0, self._reads_first - 1)
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until nothing is read; nothing will be until the end of the block."""
        with self._changed:
            self._write_waits = True
            self._changed.wait_for(self._may_write)
            self._write_waits, self._is_writing = False, True
        try:
            yield
        finally:
            with self._changed:
                self._is_writing = False
                self._reads_first = self._reads_waiting
                self._changed.notify_all()

    def _may_read(self) -> bool:
        return not self._is_writing and (not self._write_waits or self._reads_first > 0)

    def _may_write(self) -> bool:
        # Of the reads that go first, some may have given up.
        return not self._reading and (not self._reads_first or not self._reads_waiting)
