"""Run `sentinel-embedder`, or say in one line what to install if an extra is missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the worker until SIGTERM or SIGINT."""
    try:
        from embedder_server.app import run  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install '.[embedder]' in Sentinel's folder")
    sys.exit(run())


if __name__ == "__main__":
    main()
