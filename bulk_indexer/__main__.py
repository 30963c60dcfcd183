"""Start `sentinel bulk-index`, or say which package is missing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one bulk index job."""
    # gRPC reads it when imported. Without it, gRPC logs each process that Ray starts.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        from bulk_indexer.app import run  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install '.[bulk]' in Sentinel's folder")
    sys.exit(run())


if __name__ == "__main__":
    main()
