"""Add what lies in `protos/` to the client's wheel and source archive: stubs and contract.

The folder is outside of this one, where settings of hatchling alone reach it in a clone, and not in
an unpacked source archive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# In `protos/`, and in the wheel. All but the stubs are for other languages: a folder for protoc,
# and the descriptor set beside it.
_IN_WHEEL = {
    "gen/python/sentinel": "sentinel",
    "buf": "sentinel/protos/buf",
    "google": "sentinel/protos/google",
    "sentinel": "sentinel/protos/sentinel",
    "NOTICE.md": "sentinel/protos/NOTICE.md",
    "gen/descriptors": "sentinel/protos",
}


class Contract(BuildHookInterface[Any]):
    """Includes the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to include; an editable install finds the stubs by its path."""
        if version == "editable":
            return
        unpacked = Path(self.root) / "protos"  # of a source archive
        protos = unpacked if unpacked.exists() else Path(self.root).parent.parent / "protos"
        for source, target in _IN_WHEEL.items():
            place = f"protos/{source}" if self.target_name == "sdist" else target
            build_data["force_include"][str(protos / source)] = place
