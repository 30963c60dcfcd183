"""Reads the tensors of a legacy (2016-2020, not zip) PyTorch checkpoint without PyTorch.

Such a file is a row of pickles followed by raw storages. Unpickling can call anything, so only
the four names a plain state dict needs are let through; no code of the file ever runs.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder_server.types import ModelLoadError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class _TensorView:
    """Where one tensor lies inside its storage; strides count elements."""

    storage_key: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a legacy checkpoint by name, each C-contiguous.

    Args:
        data: The whole `.pth` file.

    Raises:
        ModelLoadError: The file is not such a checkpoint, or holds more than tensors.
    """
    file = io.BytesIO(data)
    try:
        if _StateDictUnpickler(file).load() != _LEGACY_MAGIC:
            msg = "not a legacy PyTorch checkpoint"
            raise ModelLoadError(msg)
        _StateDictUnpickler(file).load()  # protocol version
        _StateDictUnpickler(file).load()  # byte order and type sizes of the writer
        views: dict[str, _TensorView] = _StateDictUnpickler(file).load()
        storage_keys: list[str] = _StateDictUnpickler(file).load()
        dtypes = {view.storage_key: view.dtype for view in views.values()}
        storages = {key: _read_storage(file, dtypes[key]) for key in storage_keys}
        return {name: _materialise(view, storages) for name, view in views.items()}
    except (pickle.UnpicklingError, KeyError, ValueError, EOFError, struct.error) as exc:
        msg = f"cannot read the PyTorch checkpoint: {exc}"
        raise ModelLoadError(msg) from exc


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickler that knows a tensor, an ordered dict, and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module_name == "torch" and global_name in _STORAGE_TYPES:
            return _STORAGE_TYPES[global_name]
        msg = f"{module_name}.{global_name} is not allowed in a checkpoint"
        raise pickle.UnpicklingError(msg)

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        _, dtype, key, _, _, view_metadata = pid
        if view_metadata is not None:
            msg = "storage views are not supported"
            raise pickle.UnpicklingError(msg)
        return key, dtype


def _rebuild_tensor(
    storage: tuple[str, np.dtype[Any]],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_autograd: object,
) -> _TensorView:
    return _TensorView(storage[0], storage[1], offset, shape, strides)


def _read_storage(file: io.BytesIO, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    (length,) = struct.unpack("<q", file.read(8))
    return np.frombuffer(file.read(length * dtype.itemsize), dtype=dtype, count=length)


def _materialise(view: _TensorView, storages: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    flat = storages[view.storage_key]
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    # as_strided reads whatever memory it is pointed at, so the bounds are proven here.
    if min(view.strides, default=0) < 0 or view.offset < 0 or last >= len(flat):
        msg = "a tensor reaches outside its storage"
        raise ValueError(msg)
    strided = np.lib.stride_tricks.as_strided(
        flat[view.offset :],
        shape=view.shape,
        strides=tuple(s * flat.itemsize for s in view.strides),
        writeable=False,
    )
    return np.ascontiguousarray(strided).reshape(view.shape)
