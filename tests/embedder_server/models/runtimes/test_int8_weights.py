"""Weights stored as int8: smaller, near to float32, and the same alone and in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedder_server.models.runtimes import int8_weights
from embedder_server.models.runtimes.base import Runtime
from embedder_server.models.runtimes.int8_weights import round_to_int8, store_weights_as_int8
from embedder_server.models.runtimes.onnx import cpu_precisions, open_onnx

WORDS, WIDTH = 2000, 64
RUNTIMES = ["onnxruntime-int8", *(["openvino-int8"] if cpu_precisions() else [])]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A table of words, small positions, and the same matrix twice."""
    random = np.random.default_rng(1)
    weights = {
        "words": random.normal(size=(WORDS, WIDTH)),
        "places": random.normal(size=(8, WIDTH)),
        "matrix": random.normal(size=(WIDTH, WIDTH)) * np.linspace(0.01, 3, WIDTH),
        "axis": None,
    }
    tensors = [
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in weights.items()
        if value is not None
    ]
    tensors.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"))
    tensors.append(numpy_helper.from_array(np.arange(8, dtype=np.int64), "numbers"))
    node = helper.make_node
    nodes = [
        node("Gather", ["words", "input_ids"], ["found"]),
        node("Gather", ["places", "numbers"], ["place"]),
        node("Add", ["found", "place"], ["hidden"]),
        node("MatMul", ["hidden", "matrix"], ["first"]),
        node("Tanh", ["first"], ["active"]),
        node("MatMul", ["active", "matrix"], ["second"]),
        node("ReduceSum", ["second", "axis"], ["vectors"], keepdims=0),
    ]
    given = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", 8])
    made = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(nodes, "network", [given], [made], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "network.onnx"))
    return tmp_path / "network.onnx"


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_vectors_stay_near_to_float32_and_do_not_depend_on_the_batch(
    network: Path, runtime: str
) -> None:
    target = network.with_name("small.onnx")
    store_weights_as_int8(network, target)
    ids = np.random.default_rng(2).integers(0, WORDS, (16, 8))
    [exact] = ort.InferenceSession(str(network)).run(None, {"input_ids": ids})
    tower = open_onnx(target, Runtime(runtime.split("-", maxsplit=1)[0], "int8"), "cpu", 1)
    together = unit(tower.run({"input_ids": ids}))
    alone = unit(np.concatenate([tower.run({"input_ids": one[None]}) for one in ids]))
    assert np.einsum("ij,ij->i", together, unit(exact)).min() > 0.999
    assert np.einsum("ij,ij->i", together, alone).min() > 0.99999


def test_large_weights_become_int8_once_and_small_ones_stay(network: Path) -> None:
    target = network.with_name("small.onnx")
    store_weights_as_int8(network, target)
    assert target.stat().st_size < 0.3 * network.stat().st_size
    types = {t.name: t.data_type for t in onnx.load(str(target)).graph.initializer}
    assert types["places"] == TensorProto.FLOAT
    assert sorted(n for n, kind in types.items() if kind == TensorProto.INT8) == [
        "matrix_int8_1",
        "words_int8_0",
    ]
    assert not {"matrix", "words"} & set(types)


def test_a_value_is_off_by_at_most_half_a_step_of_its_column() -> None:
    values = np.random.default_rng(3).normal(size=(50, 7)).astype(np.float32)
    values[:, 2] = 0
    rounded, scales = round_to_int8(values, axis=1)
    assert scales.shape == (1, 7)
    assert (np.abs(rounded * scales - values) <= scales / 2 + 1e-6).all()
    assert np.abs(rounded).max() == 127


def test_a_network_too_large_for_one_file_has_its_weights_beside_it(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_weights, "_MOST_BYTES", 1000)
    target = network.with_name("small.onnx")
    store_weights_as_int8(network, target)
    assert (network.parent / "small.onnx_data").stat().st_size > 100_000
    assert len(ort.InferenceSession(str(target)).get_inputs()) == 1


def test_weights_of_a_branch_stay_and_listed_weights_are_no_inputs(
    network: Path, tmp_path: Path
) -> None:
    """As old exporters write it: `If` reads a weight from outside, and weights are inputs, too."""
    model = onnx.load(str(network))
    graph, node = model.graph, helper.make_node
    made = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)
    branches = {
        f"{name}_branch": helper.make_graph(
            [node("Identity", ["matrix"], ["chosen"])], name, [], [made]
        )
        for name in ("then", "else")
    }
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph.node[4].input[0] = "sum"
    graph.node.insert(4, node("If", ["yes"], ["choice"], **branches))
    graph.node.insert(5, node("MatMul", ["first", "choice"], ["sum"]))
    shape = [WORDS, WIDTH]
    graph.input.append(helper.make_tensor_value_info("words", TensorProto.FLOAT, shape))
    onnx.save(model, str(network))
    target = tmp_path / "small.onnx"
    store_weights_as_int8(network, target)
    session = ort.InferenceSession(str(target))
    assert [given.name for given in session.get_inputs()] == ["input_ids"]
    ids = np.random.default_rng(2).integers(0, WORDS, (4, 8))
    [exact] = ort.InferenceSession(str(network)).run(None, {"input_ids": ids})
    [vectors] = session.run(None, {"input_ids": ids})
    assert float((unit(vectors) * unit(exact)).sum(axis=1).min()) > 0.95
