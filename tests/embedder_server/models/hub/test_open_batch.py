"""Graphs of one item that are not rewritten for several, because they mix items."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from embedder_server.models.hub import open_batch


def graph_of(nodes: list[onnx.NodeProto], output: list[int]) -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    constants = {"two": [2], "first": [0], "one": [1.0], "pair": [[1.0], [2.0]]}
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, [1, 2, 3])],
        [value("y", TensorProto.FLOAT, output)],
        [onnx.numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name
                )
            )
    return model


node = onnx.helper.make_node


@pytest.mark.parametrize(
    ("nodes", "output", "says"),
    [
        ([node("Softmax", ["x"], ["y"], axis=0)], [1, 2, 3], "Softmax mixes items"),
        ([node("ReduceSum", ["x", "first"], ["y"])], [1, 2, 3], "ReduceSum mixes items"),
        ([node("Gather", ["x", "first"], ["y"], axis=0)], [1, 2, 3], "Gather mixes items"),
        ([node("Slice", ["x", "first", "two", "first"], ["y"])], [1, 2, 3], "some items only"),
        ([node("Concat", ["x", "x"], ["y"], axis=0)], [2, 2, 3], "Concat mixes items"),
        ([node("LpNormalization", ["x"], ["y"])], [1, 2, 3], "LpNormalization is not known"),
        ([node("Transpose", ["x"], ["y"], perm=[1, 0, 2])], [2, 1, 3], "does not begin with"),
    ],
)
def test_a_graph_that_mixes_items_is_not_rewritten(
    nodes: list[onnx.NodeProto], output: list[int], says: str
) -> None:
    with pytest.raises(open_batch.OneItemOnly, match=says):
        next(open_batch.open_batches(graph_of(nodes, output)))
