"""Entry point of `sentinel bulk-index`: says in one line what to install when it is missing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one bulk index job to its end."""
    # Else gRPC tells of every process that Ray starts. Read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        from bulk_indexer.app import run  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install '.[bulk]' in Sentinel's folder")
    sys.exit(run())


if __name__ == "__main__":
    main()
