#!/usr/bin/env python3
"""Check with a model's real weights that Sentinel's vectors equal those of its reference.

For CLIP, SigLIP, SigLIP 2 and Chinese-CLIP the reference is transformers: the same texts and images
go through its processor and PyTorch model, and through all our runtimes. For open_clip checkpoints
it is open_clip, in the same way. Current transformers cannot load jina-clip. There the reference is
its published ONNX files with tokenizers, Pillow and onnxruntime, one text and one image at a time,
cropped like torchvision, as its own code does.

Usage: check_model.py NAME_OR_FOLDER [--revision SHA] [--runtimes auto,onnxruntime,…] [--device …]
       check_model.py --all [--runtimes …] [--device …]
With --all it downloads, loads and checks every model of the catalog, each in a process of its own,
and prints one table; one that fails does not end the others.
Needs: pip install '.[torch,openvino]' sentencepiece in Sentinel's folder (jina-clip:
'.[hub,openvino]' alone; open_clip: '.[openclip,openvino]').
Exits with 1 if a cosine is below what docs/models.md promises, or if one model does not load on a
runtime that --runtimes names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from embedder_server.models.base import EmbeddingModel, ModelChoice
from embedder_server.models.catalog import catalog
from embedder_server.models.hub.downloads import pull
from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.source import ModelFolder, find_model
from embedder_server.models.hub.vlm import FAMILIES as VLM_FAMILIES
from embedder_server.models.registry import load_model
from embedder_server.types import ModelLoadError

Vectors = npt.NDArray[np.float32]

TEXTS = (
    "a photo of a cat",
    "a red circle on a white background",
    "Two DOGS, running along the beach!",
    "an old man mends a fishing net on the quay while grey cats wait beside a bucket; the tide "
    "goes out slowly and children run along the harbour wall towards the light",
    "猫",
    "",
)
# The first two texts must be closer to each other than to the third.
CLOSE = ("a cat sleeps on the sofa", "a kitten naps on the couch", "quarterly tax forms")
# In tokens, by architecture: from the authors' own examples.
AUTHORS_LIMITS = {"chinese_clip": 52, "altclip": 77, "flava": 77, "align": 64}
# Whose processors in transformers always pad texts to the limit.
PADDED = ("align", "tipsv2")
# The class of transformers that prepares images, with Pillow; others: CLIP's. TIPSv2's needs
# torchvision. With the settings in its file, ViT's takes the same steps.
IMAGE_PROCESSORS = {
    "siglip": "Siglip",
    "siglip2": "Siglip2",
    "chinese_clip": "ChineseCLIP",
    "align": "EfficientNet",
    "flava": "Flava",
    "tipsv2": "ViT",
    "vision-text-dual-encoder": "ViT",
}
RUNTIMES = "onnxruntime,openvino,openvino-bf16,auto"
LIMITS = {"fp32": 0.9999, "bf16": 0.999, "fp16": 0.999, "int8": 0.99}


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a model against its reference.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("model", nargs="?", help="hub id or folder")
    which.add_argument("--all", action="store_true", help="every model of the catalog")
    parser.add_argument("--revision", help="commit of the hub")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtimes", help="default: those that load here")
    parser.add_argument("--cache-dir", type=Path)
    options = parser.parse_args()
    named = options.runtimes.split(",") if options.runtimes else []
    options.runtimes = options.runtimes or RUNTIMES
    if options.all:
        return check_all(options)
    found = check(find_model(options.model, options.revision), options.model, options)
    return 0 if found.is_right and set(named) <= set(found.loaded) else 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one model.

    Attributes:
        loaded: The runtimes that load it here.
        equal: Whether all of them have the vectors of the reference; None: it has none.
        sensible: Whether they find the right text, as trained weights do.
        why: What failed; empty if nothing did.
    """

    revision: str = ""
    loaded: tuple[str, ...] = ()
    equal: bool | None = None
    sensible: bool = False
    why: str = ""

    @property
    def is_right(self) -> bool:
        return bool(self.loaded) and self.equal is not False and self.sensible and not self.why


def check_all(options: argparse.Namespace) -> int:
    """Check the whole catalog; print a table; return 1 if any model is not right."""
    verdicts = {}
    for name in catalog():
        # One of its own for each: a model may take all memory, and its process is killed.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                verdicts[name] = pool.submit(check_entry, name, options).result()
            except BrokenProcessPool:
                verdicts[name] = Verdict(why="its process ended; is there enough memory?")
    table = Table(title="models of the catalog")
    for column in ("model", "revision", "loads on", "equals its reference", "sensible", "result"):
        table.add_column(column)
    said = {True: "yes", False: "NO", None: "has none"}
    for name, one in verdicts.items():
        seen = (said[one.equal], said[one.sensible]) if one.loaded else ("-", "-")
        result = "right" if one.is_right else one.why or "WRONG"
        table.add_row(name, one.revision[:12] or "-", ", ".join(one.loaded) or "-", *seen, result)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return 0 if all(one.is_right for one in verdicts.values()) else 1


def check_entry(name: str, options: argparse.Namespace) -> Verdict:
    """Download one model of the catalog and check it; report any failure as a verdict."""
    try:
        folder = pull(catalog()[name])
        return check(folder, name, options)
    except ModelLoadError as error:
        return Verdict(why=str(error))
    except Exception as error:  # the next model must be checked all the same
        return Verdict(why=f"{type(error).__name__}: {error}")


def check(folder: ModelFolder, model_name: str, options: argparse.Namespace) -> Verdict:
    """Load a model on each runtime, and compare its vectors with the reference's."""
    print(f"{folder.name} ({folder.model_type}), revision {folder.revision or 'local'}")
    expected = reference(folder) if has_reference(folder) else None
    loaded, equal, sensible, why = [], [], [], ""
    for name in options.runtimes.split(","):
        try:
            model = load_model(
                ModelChoice(
                    model_name,
                    options.device,
                    options.threads,
                    revision=options.revision,
                    runtime=name,
                    cache_dir=options.cache_dir,
                )
            )
        except ModelLoadError as error:
            why = f"{name}: not here: {error}"
            print(f"  {why}")
            continue
        loaded.append(name)
        describe(name, model)
        if expected is not None:
            equal.append(agrees(model, expected))
        sensible.append(makes_sense(model))
        print(f"    {'right' if sensible[-1] and all(equal[-1:]) else 'WRONG'}")
        model.close()
    return Verdict(
        folder.revision or "local",
        tuple(loaded),
        all(equal) if equal else None,
        all(sensible),
        "" if loaded else why,
    )


def describe(name: str, model: EmbeddingModel) -> None:
    """Print the properties of a model."""
    info = model.info
    print(f"  {name}: {info.runtime} {info.dtype}, {info.dimensions} dimensions, logit scale")
    print(f"    {info.logit_scale:.3f}, bias {info.logit_bias:.3f}; {info.runtime_choice}")


def makes_sense(model: EmbeddingModel) -> bool:
    """Print a few cosines, and return whether they are as those of trained weights."""
    near = unit(model.embed_texts([model.tokenize(text) for text in CLOSE]))
    scores = images_of(model) @ texts_of(model).T
    shapes = bool(scores[0, 1] > scores[0, 0])
    print(f"    kitten {near[0] @ near[1]:.3f} > tax forms {near[0] @ near[2]:.3f}; ", end="")
    print(f"red circle: 'red circle' {scores[0, 1]:.3f} > 'cat' {scores[0, 0]:.3f}")
    # Trained weights pass both checks; random weights may fail them.
    return bool(near[0] @ near[1] > near[0] @ near[2]) and shapes


def agrees(model: EmbeddingModel, expected: tuple[Vectors, Vectors]) -> bool:
    """Print the cosines to the reference and return whether they are high enough."""
    right = True
    precision = {"bfloat16": "bf16", "float16": "fp16", "int8": "int8"}.get(
        model.info.dtype, "fp32"
    )
    for kind, ours, theirs in (
        ("texts", texts_of(model), expected[0]),
        ("images", images_of(model), expected[1]),
    ):
        cosines = np.einsum("ij,ij->i", ours, theirs)
        right &= bool(cosines.min() >= LIMITS[precision])
        print(f"    {kind}: cosine to the reference min {cosines.min():.6f} {cosines.round(5)}")
    return right


def texts_of(model: EmbeddingModel) -> Vectors:
    return unit(model.embed_texts([model.tokenize(text) for text in TEXTS]))


def images_of(model: EmbeddingModel) -> Vectors:
    return unit(model.embed_images([model.preprocess(picture) for picture in pictures()]))


def pictures() -> list[Image.Image]:
    """Return images of several shapes, the first a red circle on white."""
    circle = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(circle).ellipse((100, 50, 300, 250), fill="red")
    random = np.random.default_rng(3)
    coarse = [random.integers(0, 256, (6, 9, 3), dtype=np.uint8) for _ in range(3)]
    # For the last one, half of the excess of a crop to 32, 224, 384 or 512 is one and a half.
    shapes = ((640, 480), (333, 777), (133, 71))
    return [circle, *(Image.fromarray(c).resize(s) for c, s in zip(coarse, shapes, strict=True))]


def has_reference(folder: ModelFolder) -> bool:
    """Tell whether `reference` knows this family."""
    with_weights = folder.layout in (Layout.TRANSFORMERS, Layout.OPEN_CLIP)
    return with_weights and folder.model_type not in VLM_FAMILIES  # check_vlm.py has those


def reference(folder: ModelFolder) -> tuple[Vectors, Vectors]:
    """Return the vectors of the same texts and images without any code of ours."""
    if folder.layout is Layout.OPEN_CLIP:
        return open_clip_vectors(folder)
    if folder.layout is not Layout.TRANSFORMERS:
        raise SystemExit(f"{folder.name} has no weights: check the model it was exported from")
    if folder.model_type == "jina_clip":
        return jina_vectors(folder)
    return transformers_vectors(folder)


def open_clip_vectors(folder: ModelFolder) -> tuple[Vectors, Vectors]:
    """Return the vectors of open_clip, its tokenizer and its preprocessing."""
    import open_clip
    import torch

    name = f"local-dir:{folder.path}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    with torch.inference_mode():
        texts = model.eval().encode_text(open_clip.get_tokenizer(name)(list(TEXTS)))
        images = model.encode_image(torch.stack([preprocess(picture) for picture in pictures()]))
    return unit(texts.numpy()), unit(images.numpy())


def transformers_vectors(folder: ModelFolder) -> tuple[Vectors, Vectors]:
    """Return the vectors of transformers."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder.path, dtype="float32").eval()
    if folder.model_type == "aimv2":  # else its text vectors depend on the batch
        model.set_attn_implementation("eager")
    return transformers_texts(folder, model, TEXTS), transformers_images(folder, model, pictures())


def transformers_texts(folder: ModelFolder, model: Any, texts: Sequence[str]) -> Vectors:
    """Return unit float32 `[texts, dimensions]` of a model of transformers and its tokenizer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path)
    longest = folder.config.get("text_config", {}).get("max_position_embeddings") or 77
    options: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
    siglip = folder.model_type.startswith("siglip")
    if siglip and "Siglip" not in type(tokenizer).__name__:  # Gemma's keeps upper case
        texts = [text.lower() for text in texts]
    if siglip or folder.model_type in PADDED:
        options["padding"] = "max_length"
    limit = AUTHORS_LIMITS.get(folder.model_type, longest)
    options["max_length"] = min(longest, tokenizer.model_max_length, limit)
    inputs = dict(tokenizer(list(texts), **options))
    if siglip:  # trained without a mask
        inputs = {"input_ids": inputs["input_ids"]}
    with torch.inference_mode():
        return unit(_pooled(model.get_text_features(**inputs)))


def transformers_images(folder: ModelFolder, model: Any, images: Sequence[Image.Image]) -> Vectors:
    """Return unit float32 `[images, dimensions]` of a model of transformers and its processor."""
    import torch
    import transformers

    name = IMAGE_PROCESSORS.get(folder.model_type, "CLIP")
    processor = getattr(transformers, f"{name}ImageProcessorPil").from_pretrained(folder.path)
    with torch.inference_mode():
        inputs = processor(images=list(images), return_tensors="pt")
        return unit(_pooled(model.get_image_features(**inputs)))


def _pooled(output: Any) -> Vectors:
    vectors = output.pooler_output.numpy()
    return np.asarray(vectors[:, 0] if vectors.ndim == 3 else vectors)  # FLAVA: of every token


def jina_vectors(folder: ModelFolder) -> tuple[Vectors, Vectors]:
    """Return the vectors of jina-clip's ONNX files: two networks, or one graph of both."""
    import onnxruntime

    onnx = folder.path / "onnx"
    both = onnx / "model.onnx"
    files = [both] if both.is_file() else [onnx / "text_model.onnx", onnx / "vision_model.onnx"]
    sessions = [onnxruntime.InferenceSession(f, providers=["CPUExecutionProvider"]) for f in files]
    ids, pixels = jina_ids(folder), jina_pixels(folder)

    def run(kind: str, feed: dict[str, Any]) -> Any:
        session = sessions[-1] if kind == "image" else sessions[0]
        made = [output.name for output in session.get_outputs()]
        [name] = [name for name in made if name in (f"{kind}_embeds", f"{kind}_embeddings")]
        return session.run([name], {i.name: feed[i.name] for i in session.get_inputs()})[0][0]

    def fed(text: Any, picture: Any) -> dict[str, Any]:
        return {"input_ids": text, "attention_mask": np.ones_like(text), "pixel_values": picture}

    # The graph of both takes a text and an image; only one output is computed.
    texts = [run("text", fed(text, pixels[0])) for text in ids]
    images = [run("image", fed(ids[0], picture)) for picture in pixels]
    return unit(np.stack(texts)), unit(np.stack(images))


def jina_ids(folder: ModelFolder) -> list[Any]:
    """Return int64 `[1, tokens]` for each text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(8192)
    return [np.array([tokenizer.encode(text).ids], dtype=np.int64) for text in TEXTS]


def jina_pixels(folder: ModelFolder) -> list[Any]:
    """Return float32 `[1, 3, side, side]` for each picture."""
    config = folder.read_json("preprocessor_config.json")
    if config["resize_mode"] != "shortest":
        raise SystemExit(f"resize_mode {config['resize_mode']!r}: not known for any jina-clip")
    side = config["size"] if isinstance(config["size"], int) else config["size"][0]
    mean = np.array(config.get("mean", (0.48145466, 0.4578275, 0.40821073)))
    std = np.array(config.get("std", (0.26862954, 0.26130258, 0.27577711)))
    made = []
    for picture in pictures():
        shorter = min(picture.size)
        width, height = (int(side * length / shorter) for length in picture.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(resized.crop((left, top, left + side, top + side))) / 255
        made.append(((pixels - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
    return made


def unit(vectors: Any) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


if __name__ == "__main__":
    sys.exit(main())
