"""Rewrite a graph that takes one item so that it takes any number of them.

Exporters write the sizes of their sample into the graph: of one item. The rewriting follows the
item through the graph, from the input to the output, and opens that side of every shape. A shape
can be read in more than one way (17, 1, 64 becomes 17, 4, 16: is the item part of 17 or of 4?), so
the readings are tried in turn. The result is used only if its vectors equal those of single items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_READINGS = 200  # of a graph's shapes, at most
_SAME_SHAPE = {
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Tanh",
    "Where",
}  # fmt: skip
_ITEMS_FIRST = {
    "AveragePool", "BatchNormalization", "Conv", "GlobalAveragePool", "GlobalMaxPool",
    "GroupNormalization", "InstanceNormalization", "MaxPool",
}  # fmt: skip
_RESHAPES = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_REDUCTIONS = {"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}


class OneItemOnly(Exception):
    """The graph cannot be rewritten. The message says where it stopped."""


@dataclass(frozen=True, slots=True)
class _Side:
    """Where a tensor's items are: inside a side of the length `outer * items * inner`."""

    axis: int
    outer: int = 1


class _Ambiguous(Exception):
    def __init__(self, shape: Any, readings: Sequence[_Side]) -> None:
        self.shape, self.readings = shape, readings


def open_batches(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield rewritten copies of `model`, the likeliest first.

    Args:
        model: Takes one item, as the first side of its one input. Its constants are folded, so
            that every shape is known.

    Raises:
        OneItemOnly: There are none.
    """
    reason, made = OneItemOnly("no reading of its shapes fits"), 0
    pending: list[dict[Any, _Side]] = [{}]
    for _ in range(_READINGS):
        if not pending:
            break
        readings = pending.pop()
        try:
            rewritten = _Rewriting(model, readings).run()
        except _Ambiguous as question:
            pending += [{**readings, question.shape: side} for side in reversed(question.readings)]
        except OneItemOnly as error:
            reason = error
        else:
            made += 1
            yield rewritten
    if not made:
        raise reason


class _Rewriting:
    """One attempt, with one reading for each ambiguous shape."""

    def __init__(self, model: onnx.ModelProto, readings: dict[Any, _Side]) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self._readings = readings
        self._sides: dict[str, _Side] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._shapes = _shapes(model)
        self._constants = _small_constants(self._graph)
        self._input = self._graph.input[0].name

    def run(self) -> onnx.ModelProto:
        self._sides[self._input] = _Side(0)
        self._count_items()
        for node in self._graph.node:
            if any(name in self._sides for name in node.input):
                self._follow(node)
            self._nodes.append(node)
        output = self._graph.output[0]
        if self._sides.get(output.name) != _Side(0) or self._shapes[output.name][0] != 1:
            raise OneItemOnly("its output does not begin with the items")
        for value in (self._graph.input[0], output):
            value.type.tensor_type.shape.dim[0].dim_param = "items"
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        return self._model

    def _follow(self, node: onnx.NodeProto) -> None:
        """Find the items in the node's outputs; change its constants where they count them."""
        kind = node.op_type
        if kind in _SAME_SHAPE or kind == "Expand":
            sides = [self._broadcast(node)]
        elif kind in _RESHAPES:
            sides = [self._reshape(node)]
        elif kind in _ITEMS_FIRST or kind == "Attention":
            sides = [self._first(node)]
        elif kind in _REDUCTIONS or kind == "ArgMax":
            sides = [self._reduce(node)]
        elif kind in _RULES:
            sides = [_RULES[kind](self, node)] * len(node.output)
        else:
            raise OneItemOnly(f"the operator {kind} is not known")
        self._sides.update(zip(node.output, sides * len(node.output), strict=False))

    def _broadcast(self, node: onnx.NodeProto) -> _Side:
        rank = len(self._shape(node.output[0]))
        found = {
            _Side(side.axis + rank - len(self._shape(name)), side.outer)
            for name in node.input
            if (side := self._sides.get(name)) is not None
        }
        if len(found) != 1:
            raise OneItemOnly(f"{node.op_type} mixes items")
        [side] = found
        for name in node.input:
            if not name or name in self._sides:
                continue
            shape = self._constants.get(name) if node.op_type == "Expand" else self._shape(name)
            self._constant_fits([] if shape is None else list(shape), side, rank, node)
        return side

    @staticmethod
    def _constant_fits(shape: list[int], side: _Side, rank: int, node: onnx.NodeProto) -> None:
        """A constant beside the items must be the same for all of them."""
        axis = side.axis - rank + len(shape)
        if axis >= 0 and shape[axis] != 1:
            raise OneItemOnly(f"{node.op_type} has a constant of its own for every item")

    def _reshape(self, node: onnx.NodeProto) -> _Side:
        before, after = self._shape(node.input[0]), self._shape(node.output[0])
        side = self._side(node)
        position = math.prod(before[: side.axis]) * side.outer
        readings = _readings(after, position)
        if not readings:
            raise OneItemOnly("a shape splits the items")
        key = (tuple(before), side, tuple(after))
        if len(readings) > 1 and key not in self._readings:
            raise _Ambiguous(key, readings)
        chosen = self._readings.get(key, readings[0])
        target = [-1 if axis == chosen.axis else length for axis, length in enumerate(after)]
        shape = self._constant(f"{node.output[0]}_shape", target)
        node.CopyFrom(
            helper.make_node("Reshape", [node.input[0], shape], node.output, name=node.name)
        )
        return chosen

    def _first(self, node: onnx.NodeProto) -> _Side:
        side = self._side(node)
        given = node.input[:3] if node.op_type == "Attention" else node.input[:1]
        if side != _Side(0) or any(self._sides.get(name) != side for name in given):
            raise OneItemOnly(f"{node.op_type} does not begin with the items")
        if self._shape(node.input[0])[0] != 1:
            raise OneItemOnly(f"{node.op_type} mixes items")
        return side

    def _reduce(self, node: onnx.NodeProto) -> _Side:
        side, rank = self._side(node), len(self._shape(node.input[0]))
        axes = self._axes(node, 1, rank)
        if side.axis in axes:
            raise OneItemOnly(f"{node.op_type} mixes items")
        gone = 0 if _attribute(node, "keepdims", 1) else sum(axis < side.axis for axis in axes)
        return _Side(side.axis - gone, side.outer)

    def _transpose(self, node: onnx.NodeProto) -> _Side:
        side, rank = self._side(node), len(self._shape(node.input[0]))
        order = _attribute(node, "perm", list(range(rank))[::-1])
        return _Side(list(order).index(side.axis), side.outer)

    def _matrices(self, node: onnx.NodeProto) -> _Side:
        rank = len(self._shape(node.output[0]))
        found = set()
        for index, name in enumerate(node.input):
            shape, side = self._shape(name), self._sides.get(name)
            if side is None:
                continue
            of_rows = (
                index == 0 and side.axis == len(shape) - 2 and len(self._shape(node.input[1])) == 2
            )
            if side.axis >= len(shape) - 2 and not of_rows:
                raise OneItemOnly("a product of matrices mixes items")
            found.add(_Side(side.axis + rank - len(shape), side.outer))
        if len(found) != 1:
            raise OneItemOnly("a product of matrices mixes items")
        [side] = found
        for name in node.input:
            if name not in self._sides and side.axis < rank - 2:
                self._constant_fits(self._shape(name), side, rank, node)
        return side

    def _gemm(self, node: onnx.NodeProto) -> _Side:
        side = self._side(node)
        if side.axis != 0 or _attribute(node, "transA", 0) or node.input[0] not in self._sides:
            raise OneItemOnly("a product of matrices mixes items")
        for name in node.input[2:]:
            self._constant_fits(self._shape(name), side, 2, node)
        return side

    def _along(self, node: onnx.NodeProto) -> _Side:
        """For operators that work along other sides and keep the shape, such as Softmax."""
        side, rank = self._side(node), len(self._shape(node.input[0]))
        if node.op_type == "CumSum":
            axes = self._axes(node, 1, rank)
        else:
            axes = [_attribute(node, "axis", 0 if node.op_type == "Split" else -1) % rank]
        if node.op_type == "LayerNormalization":
            axes = list(range(axes[0], rank))
        if side.axis in axes or any(name in self._sides for name in node.input[1:]):
            raise OneItemOnly(f"{node.op_type} mixes items")
        return side

    def _slice(self, node: onnx.NodeProto) -> _Side:
        side = self._side(node)
        if side.axis in self._axes(node, 3, len(self._shape(node.input[0]))):
            raise OneItemOnly("a slice takes some items only")
        return side

    def _pad(self, node: onnx.NodeProto) -> _Side:
        side, rank = self._side(node), len(self._shape(node.input[0]))
        pads = self._constants.get(node.input[1])
        if pads is None or len(node.input) > 3 or pads[side.axis] or pads[side.axis + rank]:
            raise OneItemOnly("Pad adds items")
        return side

    def _concat(self, node: onnx.NodeProto) -> _Side:
        rank = len(self._shape(node.output[0]))
        found = {self._sides[name] for name in node.input if name in self._sides}
        [side, *others] = found
        if others or _attribute(node, "axis", 0) % rank == side.axis:
            raise OneItemOnly("Concat mixes items")
        for index, name in enumerate(node.input):
            if name not in self._sides:
                shape = self._shape(name)
                self._constant_fits(shape, side, rank, node)
                if side.outer != 1:
                    raise OneItemOnly("Concat mixes items")
                node.input[index] = self._repeated(name, shape, side, f"{node.output[0]}_{index}")
        return side

    def _gather(self, node: onnx.NodeProto) -> _Side:
        data, chosen = (self._sides.get(name) for name in node.input)
        shape, rows = self._shape(node.input[0]), self._shape(node.input[1])
        axis = _attribute(node, "axis", 0) % len(shape)
        if data is None and chosen is not None:
            return _Side(axis + chosen.axis, chosen.outer)
        assert data is not None
        if chosen is None and data.axis != axis:
            moved = data.axis + len(rows) - 1 if data.axis > axis else data.axis
            return _Side(moved, data.outer)
        if chosen == data == _Side(0) and axis == 0 and rows == [1]:
            # One row of each item's: count from where the item's rows begin.
            node.input[1] = self._offset(node.input[1], shape[0], f"{node.output[0]}_rows")
            return _Side(0)
        raise OneItemOnly("Gather mixes items")

    def _side(self, node: onnx.NodeProto) -> _Side:
        found = self._sides.get(node.input[0])
        if found is None:
            raise OneItemOnly(f"{node.op_type} takes the items as a parameter")
        return found

    def _shape(self, name: str) -> list[int]:
        if name not in self._shapes:
            raise OneItemOnly(f"the shape of {name} is not known")
        return self._shapes[name]

    def _axes(self, node: onnx.NodeProto, index: int, rank: int) -> list[int]:
        axes = _attribute(node, "axes", _attribute(node, "axis", None))
        if axes is None and len(node.input) > index:
            axes = self._constants.get(node.input[index])
        if axes is None:
            raise OneItemOnly(f"{node.op_type} does not say along which sides")
        return [int(axis) % rank for axis in np.atleast_1d(axes)]

    def _count_items(self) -> None:
        """Compute the number of items, as a list of one number and as a number."""
        zero, zeros = self._constant("items_0", 0), self._constant("items_zeros", [0])
        self._nodes += [
            helper.make_node("Shape", [self._input], ["items_shape"]),
            helper.make_node("Gather", ["items_shape", zeros], ["items_list"]),
            helper.make_node("Gather", ["items_shape", zero], ["items_number"]),
        ]
        self._constant("items_1", 1)

    def _repeated(self, name: str, shape: list[int], side: _Side, new: str) -> str:
        """Repeat a constant for every item."""
        before = self._constant(f"{new}_before", shape[: side.axis])
        after = self._constant(f"{new}_after", shape[side.axis + 1 :])
        self._nodes += [
            helper.make_node("Concat", [before, "items_list", after], [f"{new}_shape"], axis=0),
            helper.make_node("Expand", [name, f"{new}_shape"], [new]),
        ]
        return new

    def _offset(self, name: str, rows: int, new: str) -> str:
        """Add to the number of each item's row how many rows the items before it have."""
        width = self._constant(f"{new}_width", rows)
        self._nodes += [
            helper.make_node("Range", ["items_0", "items_number", "items_1"], [f"{new}_range"]),
            helper.make_node("Mul", [f"{new}_range", width], [f"{new}_starts"]),
            helper.make_node("Add", [name, f"{new}_starts"], [new]),
        ]
        return new

    def _constant(self, name: str, value: Any) -> str:
        tensor = numpy_helper.from_array(np.array(value, dtype=np.int64), name)
        self._graph.initializer.append(tensor)
        return name


_Rule = Callable[[_Rewriting, onnx.NodeProto], _Side]
_RULES: dict[str, _Rule] = {
    "Concat": _Rewriting._concat,
    "CumSum": _Rewriting._along,
    "Gather": _Rewriting._gather,
    "Gemm": _Rewriting._gemm,
    "LayerNormalization": _Rewriting._along,
    "MatMul": _Rewriting._matrices,
    "Pad": _Rewriting._pad,
    "Slice": _Rewriting._slice,
    "Softmax": _Rewriting._along,
    "Split": _Rewriting._along,
    "Transpose": _Rewriting._transpose,
}


def _readings(shape: Sequence[int], position: int) -> list[_Side]:
    """Return the sides of `shape` in which what follows `position` numbers can begin.

    The likeliest first: a side of the items alone, then the beginning of a side.
    """
    found = []
    for axis, length in enumerate(shape):
        before = math.prod(shape[:axis])
        if position % before == 0 and length % (position // before) == 0:
            found.append(_Side(axis, position // before))
    return sorted(found, key=lambda side: (shape[side.axis] != 1, side.outer != 1))


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        sides = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(s.HasField("dim_value") for s in sides):
            shapes[value.name] = [side.dim_value for side in sides]
    return shapes


def _small_constants(graph: onnx.GraphProto) -> dict[str, Any]:
    """Return the constants that can be shapes or axes, by name."""
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type in kinds and tensor.data_location == onnx.TensorProto.DEFAULT
    }


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
