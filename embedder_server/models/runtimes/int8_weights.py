"""Store the weights of an ONNX file as int8, and compute with them in float32.

Each column of a matrix, and each row of a table of words, has its own scale. Nothing else is
rounded, so a vector does not depend on its batch, as it does where inputs of layers become int8,
too. The result is plain ONNX. ONNX Runtime and OpenVINO keep it as int8 in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

# Smaller tables, such as positions, are not worth it.
_MIN_ROWS = 1024
# One file holds at most 2 GiB; the rest then goes into another one.
_MOST_BYTES = 1 << 30


def store_weights_as_int8(source: Path, target: Path) -> None:
    """Write a copy of the network in `source` whose large weights are int8 to `target`."""
    model = onnx.load(str(source))
    graph = model.graph
    weights = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    }
    stored: dict[tuple[str, int], list[str]] = {}  # names of the int8 weights and their scales
    nodes: list[Any] = []
    for node in graph.node:
        axis, position = (1, 1) if node.op_type == "MatMul" else (0, 0)
        weight = weights.get(node.input[position]) if len(node.input) > position else None
        if weight is None or not _is_large(node, weight):
            nodes.append(node)
            continue
        if (weight.name, axis) not in stored:
            stored[weight.name, axis] = _store(graph, weight, axis)
        rounded, scales = stored[weight.name, axis]
        nodes += _matrix(node, rounded, scales) if axis else _table(node, rounded, scales)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    size = sum(len(tensor.raw_data) for tensor in graph.initializer)
    onnx.save(
        model,
        str(target),
        save_as_external_data=size > _MOST_BYTES,
        location=f"{target.name}_data",
    )


def _is_large(node: Any, weight: Any) -> bool:
    if node.op_type == "Gather":
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        return axis == 0 and weight.dims[0] >= _MIN_ROWS
    return bool(node.op_type == "MatMul")


def _store(graph: Any, weight: Any, axis: int) -> list[str]:
    """Add a weight as int8, with one scale for each index of `axis`; return both names."""
    values = numpy_helper.to_array(weight)
    rounded, scales = round_to_int8(values, axis)
    names = [f"{weight.name}_int8_{axis}", f"{weight.name}_scales_{axis}"]
    arrays: list[npt.NDArray[Any]] = [rounded, scales.reshape(-1) if axis else scales]
    for name, array in zip(names, arrays, strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    return names


def round_to_int8(
    values: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return int8 values, and the float32 scales of the same rank that they are multiplied with."""
    largest = np.abs(values).max(axis=1 - axis, keepdims=True)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales


def _matrix(node: Any, rounded: str, scales: str) -> list[Any]:
    real = f"{node.output[0]}_weight"
    unpack = helper.make_node("DequantizeLinear", [rounded, scales], [real], axis=1)
    node.input[1] = real
    return [unpack, node]


def _table(node: Any, rounded: str, scales: str) -> list[Any]:
    ids, made = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [rounded, ids], [f"{made}_int8"]),
        helper.make_node("Cast", [f"{made}_int8"], [f"{made}_float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [scales, ids], [f"{made}_scale"]),
        helper.make_node("Mul", [f"{made}_float", f"{made}_scale"], [made]),
    ]


def _drop_unused(graph: Any) -> None:
    used = _used(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    gone = {tensor.name for tensor in graph.initializer} - used
    del graph.initializer[:]
    graph.initializer.extend(kept)
    # Old exporters list weights as inputs, too. Without its value one would have to be given.
    inputs = [value for value in graph.input if value.name not in gone]
    del graph.input[:]
    graph.input.extend(inputs)


def _used(graph: Any) -> set[str]:
    """Return the names that a graph reads, also in the branches and loops inside it."""
    names = {name for node in graph.node for name in node.input}
    names |= {value.name for value in graph.output}
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (attribute.g, *attribute.graphs):
            names |= _used(inner)
    return names
