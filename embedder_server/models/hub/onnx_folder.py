"""The two networks of folders that hold ONNX files: Immich's, onnx-community's and Xenova's.

None of their code runs, and torch is not needed. What a graph takes and returns is read from its
file and compared with what its layout promises. Before a folder is served, each network embeds one
item, which must give one finite vector of the model's dimensions.

Immich's graphs take one item at a time. Where one can be rewritten for several, and gives several
texts or pictures the same vectors, the cache keeps the rewritten one. Others run item by item.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from embedder_server.models.hub.families import ModelParts
from embedder_server.models.hub.layout import Layout
from embedder_server.models.hub.onnx_contract import (
    Contract,
    Signature,
    contracts_of,
    read_signature,
)
from embedder_server.models.hub.open_batch import open_batches
from embedder_server.models.hub.open_clip_config import initial_logits
from embedder_server.models.hub.source import ModelFolder, check_file
from embedder_server.models.runtimes.base import (
    Feed,
    Runtime,
    Tower,
    TwoTowers,
    as_load_error,
)
from embedder_server.models.runtimes.export_cache import ExportCache, network_file
from embedder_server.models.runtimes.onnx import (
    cpu_candidates,
    device_runtime,
    open_onnx,
    write_folded,
)
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.types import FloatArray, Modality, ModelLoadError

logger = logging.getLogger(__name__)

# Part of the cache's key. Raise it when graphs are rewritten in another way.
OPENING_VERSION = 1
_TRIES = 4  # rewritten graphs that are compared, at most
# Cosines. bfloat16 stays above the first; other orders of the same sums above the second.
_CLOSE, _SAME = 0.999, 0.99999
# Trained scales are not in these files. What transformers' classes and SigLIP's paper begin with.
_CLIP_SCALE, _SIGLIP_LOGITS = 2.6592, (10.0, -10.0)


@dataclass(frozen=True, slots=True)
class _Network:
    """A file, what it must be, and what it says of itself."""

    file: Path
    contract: Contract
    signature: Signature

    def opened(self, file: Path) -> _Network:
        """Return the same network in a file that takes any number of items."""
        signature = dataclasses.replace(self.signature, fixed_batch=False)
        return dataclasses.replace(self, file=file, signature=signature)


class OnnxFolderNetworks:
    """`Networks` of a folder of ONNX files, with int8 copies of them in `cache`."""

    def __init__(self, parts: ModelParts, cache: ExportCache) -> None:
        self._parts = parts
        self._cache = cache

    def candidates(self) -> tuple[Runtime, ...]:
        device = self._parts.device
        return cpu_candidates() if device == "cpu" else (device_runtime(device),)

    def open(self, runtime: Runtime) -> TwoTowers:
        recipe, files = self._parts.recipe, self._files
        if runtime.precision == "int8":
            sources = {kind: network.file for kind, network in files.items()}
            copies = self._cache.int8_copies(f"{self._key}-onnx", sources)
            files = {
                kind: dataclasses.replace(network, file=copies.file(kind))
                for kind, network in files.items()
            }
        towers = {kind: self._tower(network, runtime) for kind, network in files.items()}
        batches = recipe.text_batches()
        if files[Modality.TEXT].signature.fixed_length:
            batches = dataclasses.replace(batches, padding=Padding.MAX_LENGTH)
        samples = self._samples(batches)
        self._check(towers, samples)
        if runtime.library == "openvino":
            exact = {kind: self._tower(files[kind], Runtime("onnxruntime")) for kind in files}
            for kind, feed in samples.items():
                what = f"{runtime} on the {kind} network"
                _compare(towers[kind], exact[kind], feed, what, _CLOSE)
        return TwoTowers(towers, batches, recipe.dimensions)

    def reference(self) -> TwoTowers | None:
        return None  # on a GPU there is one candidate, so nothing is compared

    def logits(self) -> tuple[float, float]:
        # The files have no trained scale. Use the one that the training began with.
        folder = self._parts.folder
        if folder.layout is Layout.IMMICH:
            return initial_logits(folder)
        if self._parts.recipe.sigmoid:
            return _SIGLIP_LOGITS
        scale = folder.config.get("logit_scale_init_value", _CLIP_SCALE)
        return math.exp(float(scale)), 0.0

    @property
    def _key(self) -> str:
        return self._parts.fingerprint[:24]

    @cached_property
    def _files(self) -> dict[Modality, _Network]:
        """The networks to run: for any number of items where that is the same."""
        folder, dimensions = self._parts.folder, self._parts.recipe.dimensions
        networks = {
            kind: _Network(file, contract, read_signature(file, contract, dimensions))
            for (kind, contract), file in zip(
                contracts_of(folder).items(), _paths(folder).values(), strict=True
            )
        }
        if not any(network.signature.fixed_batch for network in networks.values()):
            return networks
        opened = self._cache.get_or_build(
            f"{self._key}-items-v{OPENING_VERSION}",
            lambda target: {kind: self._open(networks[kind], kind, target) for kind in networks},
        )
        return {
            kind: network.opened(opened.file(kind)) if opened.facts[kind] else network
            for kind, network in networks.items()
        }

    def _open(self, network: _Network, kind: Modality, target: Path) -> bool:
        """Write the network into `target` for any number of items; return whether it could be.

        It could if several items together have the vectors that each of them has in the file.
        """
        if not network.signature.fixed_batch:
            return False
        made = network.opened(network_file(target, kind))
        exact = device_runtime(self._parts.device)
        feed = self._samples(self._parts.recipe.text_batches())[kind]
        what = f"the {kind} network for several items"
        reason = "no reading of its shapes gives the same vectors"
        folded = target / "folded.onnx"
        write_folded(network.file, folded, f"{kind}.data")
        try:
            for model in islice(open_batches(onnx.load(folded, load_external_data=False)), _TRIES):
                onnx.save(model, made.file)
                try:
                    pair = self._tower(made, exact), self._tower(network, exact)
                    _compare(*pair, feed, what, _SAME)
                except ModelLoadError as error:
                    reason = str(error)
                else:
                    logger.info("opened for batches, once", extra={"modality": str(kind)})
                    return True
        # Whatever stops it, the file itself still runs.
        except Exception as error:
            reason = str(error) or repr(error)
        finally:
            folded.unlink()
        for file in (made.file, target / f"{kind}.data"):
            file.unlink(missing_ok=True)
        logger.info("runs one item at a time", extra={"modality": str(kind), "why": reason})
        return False

    def _tower(self, network: _Network, runtime: Runtime) -> Tower:
        parts, output = self._parts, (network.signature.output,)
        tower = open_onnx(
            network.file,
            runtime,
            parts.device,
            parts.threads,
            output,
            engines=self._cache.engines(),
        )
        # Where rows are always filled up, training had no mask.
        return _Renamed(tower, network, parts.recipe.padding is not Padding.MAX_LENGTH)

    def _samples(self, batches: TextBatches) -> dict[Modality, Feed]:
        """Return some texts that share a batch, and three pictures."""
        recipe, random = self._parts.recipe, np.random.default_rng(7)
        texts = [self._parts.tokenizer.tokenize(text) for text in ("cat", "red boats", "night")]
        _, ids, mask = next(batches.split(texts))
        coarse = random.integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
        sides = (recipe.image.side,) * 2
        pictures = [recipe.image.pixels(Image.fromarray(one).resize(sides)) for one in coarse]
        [pixels] = contracts_of(self._parts.folder)[Modality.IMAGE].names
        return {
            Modality.TEXT: {"input_ids": ids, "attention_mask": mask},
            Modality.IMAGE: {pixels: np.stack(pictures)},
        }

    def _check(self, towers: Mapping[Modality, Tower], samples: Mapping[Modality, Feed]) -> None:
        """Embed one item with each network."""
        parts, dimensions = self._parts, self._parts.recipe.dimensions
        for kind, tower in towers.items():
            fails = f"the {kind} network of {parts.folder.name} does not embed one {kind}"
            with as_load_error(fails, parts.device):
                vectors = tower.run({name: samples[kind][name][:1] for name in tower.inputs})
            if vectors.shape != (1, dimensions) or not np.isfinite(vectors).all():
                raise ModelLoadError(
                    f"{fails}: it returns {vectors.shape}, not finite numbers of the shape (1, "
                    f"{dimensions}); its files do not match each other"
                )


def _compare(tower: Tower, exact: Tower, feed: Feed, what: str, least: float) -> None:
    """Raise `ModelLoadError` if two towers' vectors of some item have a cosine below `least`."""
    taken = {name: feed[name] for name in exact.inputs}
    with as_load_error(f"{what} does not work", "cpu"):
        ours, theirs = (
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            for vectors in (tower.run(taken), exact.run(taken))
        )
        cosine = float(np.einsum("ij,ij->i", ours, theirs).min())
    if not cosine >= least:
        raise ModelLoadError(
            f"{what} gives other vectors than onnxruntime on the file itself (cosine {cosine:.4f}):"
            " use --runtime auto or onnxruntime"
        )


class _Renamed:
    """A tower whose inputs have other names or types, or that takes one item at a time."""

    def __init__(self, tower: Tower, network: _Network, masked: bool) -> None:
        self._tower = tower
        self._types = {
            ours: (theirs, network.signature.types[theirs])
            for ours, theirs in network.contract.names.items()
            if theirs in network.signature.types
        }
        self._single = network.signature.fixed_batch
        self._masked = masked
        self.inputs = tuple(self._types)

    def run(self, feed: Feed) -> FloatArray:
        theirs = {
            name: np.asarray(feed[ours], dtype=kind) for ours, (name, kind) in self._types.items()
        }
        if "attention_mask" in theirs and not self._masked:
            theirs["attention_mask"] = np.ones_like(theirs["attention_mask"])
        if not self._single:
            return self._tower.run(theirs)
        [count] = {len(array) for array in theirs.values()}
        rows = [
            self._tower.run({name: array[i : i + 1] for name, array in theirs.items()})
            for i in range(count)
        ]
        return np.concatenate(rows)

    def close(self) -> None:
        self._tower.close()


def onnx_weights(folder: ModelFolder) -> list[Path]:
    """Return the files that hold the networks, text first, each checked to be complete.

    Raises:
        ModelLoadError: One is missing or cut off, or is there in lower precision only.
    """
    paths = _paths(folder)
    for file in paths.values():
        lower = sorted(file.parent.glob(f"{file.stem}_*.onnx"))
        if not file.is_file() and lower:
            raise ModelLoadError(
                f"{folder.path} has {', '.join(other.name for other in lower)} but not "
                f"{file.name}: only float32 files are read; download {file.parent.name}/{file.name}"
                " (for int8: --runtime onnxruntime-int8 makes its own)"
            )
        check_file(file)
    beside = (extra for file in paths.values() for extra in file.parent.glob(f"{file.name}_data*"))
    external = (extra for file in paths.values() for extra in file.parent.glob(f"{file.name}.data"))
    return [*paths.values(), *sorted(beside), *sorted(external)]


def _paths(folder: ModelFolder) -> dict[Modality, Path]:
    if folder.layout is Layout.IMMICH:
        halves = {Modality.TEXT: "textual/model.onnx", Modality.IMAGE: "visual/model.onnx"}
    else:
        halves = {Modality.TEXT: "onnx/text_model.onnx", Modality.IMAGE: "onnx/vision_model.onnx"}
    return {kind: folder.path / half for kind, half in halves.items()}
