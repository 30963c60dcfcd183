"""Print where the library of this user is, as JSON: for servers, which do not import the client.

Usage: python -m sentinel_client.cli._print_library [DATA]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sentinel_client.cli._console import Failure, json_line
from sentinel_client.cli._home import HOME_VARIABLE, find_home
from sentinel_client.cli._library import read_milvus_uri, read_noted_milvus_uri


def main() -> None:
    """Print its folder, whether it exists and is the only one, and where its rows and images are.

    `elsewhere` is another Milvus, which may have rows with images of this library; else null.
    """
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get(HOME_VARIABLE)
    try:
        home = find_home(Path(given) if given else None)
        milvus_uri = read_milvus_uri(home.folder) or str(home.folder / "milvus.db")
        noted = read_noted_milvus_uri(home.folder)
    except Failure as error:
        sys.exit(error.message)
    facts = {
        "folder": str(home.folder),
        "exists": home.exists,
        "is_only": not home.note,
        "milvus_uri": milvus_uri,
        "object_store_uri": str(home.folder / "objects"),
        "elsewhere": None if noted == milvus_uri else noted,
    }
    print(json_line(facts))


if __name__ == "__main__":
    main()
