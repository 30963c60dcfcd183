"""Start `sentinel-gateway`, or print what to install if the extra is missing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the gateway until SIGTERM or SIGINT, or run its command `check` or `collect-orphans`."""
    # gRPC reads it when imported. Without it, gRPC notes each connection that a worker ends because
    # it is idle, between the lines of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # NumPy reads it when imported. Its threads wait for more work in a loop, 30 ms after each small
    # product of matrices: under load they took 42 % of all CPU time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        if sys.argv[1:2] == ["check"]:
            from search_server.maintenance import check  # noqa: PLC0415 - needs the extra

            sys.exit(check.run(sys.argv[2:]))
        if sys.argv[1:2] == ["collect-orphans"]:
            from search_server.maintenance import orphans  # noqa: PLC0415 - needs the extra

            sys.exit(orphans.run(sys.argv[2:]))
        from search_server.app import run  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install '.[gateway]' in Sentinel's folder")
    sys.exit(run())


if __name__ == "__main__":
    main()
