"""Start `sentinel bulk-index`, or say which package is missing."""

from __future__ import annotations

import logging
import os
import sys


def main() -> None:
    """Run one bulk index job."""
    # gRPC reads it when imported. Without it, gRPC logs each process that Ray starts.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        from bulk_indexer.command import INTERRUPTED, bulk_index  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install '.[bulk]' in Sentinel's folder")
    try:
        bulk_index.main(prog_name="sentinel bulk-index")
    except SystemExit as ended:
        if ended.code != INTERRUPTED:
            raise
        # All is closed, but the interpreter would wait for the thread inside `ray.init`, which may
        # take half a minute to notice that its processes have ended.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
