#!/opt/milvus/bin/python
"""The command `milvus` of the real image: becomes the server of the PyPI package.

Its data lies under /var/lib/milvus.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import milvus

BASE = Path("/var/lib/milvus")


def main() -> None:
    """Unpack the server where its data lies, set it up as the real image is, and run it."""
    milvus.MilvusServerConfig(data_dir=str(BASE), proxy_port=19530).resolve()
    milvus._initialize_data_files(str(BASE))
    config = BASE / "configs" / "milvus.yaml"
    text = config.read_text()
    if os.environ.get("COMMON_SECURITY_AUTHORIZATIONENABLED") == "true":
        text = text.replace("authorizationEnabled: false", "authorizationEnabled: true")
    # Seconds. With the default lease, a killed server blocks loading in the next one for 30 s.
    text = re.sub(r"(\n  session:\n(?:    .*\n)*?    ttl: )\d+", r"\g<1>10", text)
    config.write_text(text)
    (BASE / "run").mkdir(exist_ok=True)
    os.environ.update(
        DEPLOY_MODE="STANDALONE",
        METRICS_PORT="9091",
        MILVUS_RUN_DIR=str(BASE / "run"),
        LD_LIBRARY_PATH=str(BASE / "bin"),
    )
    os.chdir(BASE)
    os.execv(BASE / "bin" / "milvus", ["milvus", "run", "standalone"])


if __name__ == "__main__":
    main()
