"""Which layout a folder's files are taken for, where more than one would fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.source import find_model

CLIP = {"config.json": {"model_type": "clip"}}
TIMM = {"config.json": {"architecture": "vit_base_patch16_clip_224"}}
OPEN_CLIP = {"open_clip_config.json": {"model_cfg": {}}, "open_clip_model.safetensors": ""}
ONNX = {"onnx/text_model.onnx": "", "onnx/vision_model.onnx": ""}
WEIGHTS = {"model.safetensors": ""}


@pytest.mark.parametrize(
    ("files", "layout", "config"),
    [
        (CLIP | WEIGHTS, Layout.TRANSFORMERS, "config.json"),
        # As laion publishes its models, and as openai's have exports for other runtimes.
        (CLIP | WEIGHTS | OPEN_CLIP, Layout.TRANSFORMERS, "config.json"),
        (CLIP | {"pytorch_model.bin": ""} | ONNX, Layout.TRANSFORMERS, "config.json"),
        (CLIP, Layout.TRANSFORMERS, "config.json"),  # whose download is not complete
        (CLIP | ONNX, Layout.ONNX, "config.json"),
        (CLIP | {"onnx/text_model_q4.onnx": ""}, Layout.ONNX, "config.json"),
        ({"config.json": {"model_type": "jina_clip"}} | ONNX, Layout.TRANSFORMERS, "config.json"),
        (OPEN_CLIP, Layout.OPEN_CLIP, "open_clip_config.json"),
        (CLIP | OPEN_CLIP, Layout.OPEN_CLIP, "open_clip_config.json"),
        # As timm publishes them: its model.safetensors is the image network alone.
        (TIMM | WEIGHTS | OPEN_CLIP, Layout.OPEN_CLIP, "open_clip_config.json"),
        (
            {"config.json": {"text_cfg": {}}, "textual/model.onnx": "", "visual/model.onnx": ""},
            Layout.IMMICH,
            "config.json",
        ),
    ],
)
def test_a_folder_is_read_as_what_its_publisher_meant(
    tmp_path: Path, files: dict[str, object], layout: Layout, config: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    folder = find_model(str(tmp_path), None)
    assert folder.layout is layout
    assert folder.config == json.loads((tmp_path / config).read_text())
