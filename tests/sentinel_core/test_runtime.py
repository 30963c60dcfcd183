from __future__ import annotations

import gc

from sentinel_core import runtime


def test_the_collector_leaves_alone_what_was_imported() -> None:
    """A full collection stopped a gateway under load for 0.1 s."""

    async def main() -> int:
        return gc.get_freeze_count()

    try:
        assert runtime.run(main()) > 10_000
    finally:
        gc.unfreeze()
