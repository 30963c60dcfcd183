"""`python -m sentinel_client.cli` is `sentinel`."""

from __future__ import annotations

from sentinel_client.cli import main

if __name__ == "__main__":
    main(prog_name="sentinel")
