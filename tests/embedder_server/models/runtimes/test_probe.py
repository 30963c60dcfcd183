"""No model is served that fails a check at load: each failure is planted, and seen rejected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import load_hub_model
from embedder_server.models.runtimes import probe as probes
from embedder_server.models.runtimes.base import Feed, Runtime, TwoTowers
from embedder_server.models.runtimes.export_cache import ExportCache
from embedder_server.models.runtimes.probe import Probe, make_probe
from embedder_server.models.runtimes.selection import choose, open_explicit
from embedder_server.texts.batches import Padding, TextBatches
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import FloatArray, Modality, ModelLoadError
from tests.embedder_server.models import tiny_models

WIDTH, SIDE, VOCABULARY = 16, 8, 500
EXACT = Runtime("onnxruntime")
Fault = Callable[[FloatArray, npt.NDArray[Any]], FloatArray]


def tokenize(text: str, limit: int = 300) -> TokenizedText:
    """One number a word, between a first and a last token."""
    ids = [sum(word.encode()) % VOCABULARY for word in text.split()]
    kept = np.array([1, *ids[: limit - 2], 2], dtype=np.int64)
    return TokenizedText(kept, len(ids) + 2)


def preprocess(image: Image.Image) -> FloatArray:
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255


def sound(vectors: FloatArray, _: npt.NDArray[Any]) -> FloatArray:
    return vectors


@dataclass
class Tower:
    """A network of one random layer, and what is wrong with it."""

    inputs: tuple[str, ...]
    fault: Fault = sound
    width: int = WIDTH

    def run(self, feed: Feed) -> FloatArray:
        [items] = feed.values()
        random = np.random.default_rng(4)
        if items.dtype == np.int64:
            table = random.normal(size=(VOCABULARY + 1, self.width))
            present = (items > 0)[:, :, None]
            vectors = (table[items] * present).sum(1) / present.sum(1)
        else:
            flat = items.reshape(len(items), -1)
            vectors = flat @ random.normal(size=(flat.shape[1], self.width)) + 0.1
        return self.fault(vectors.astype(np.float32), items)

    def close(self) -> None:
        pass


@dataclass
class Networks:
    """Networks of one runtime, with a fault in the text or in the image network."""

    text: Tower = field(default_factory=lambda: Tower(("input_ids",)))
    image: Tower = field(default_factory=lambda: Tower(("pixel_values",)))

    def candidates(self) -> tuple[Runtime, ...]:
        return (EXACT,)

    def open(self, runtime: Runtime) -> TwoTowers:
        batches = TextBatches(Padding.LONGEST, 0, 300)
        return TwoTowers({Modality.TEXT: self.text, Modality.IMAGE: self.image}, batches, WIDTH)

    def reference(self) -> TwoTowers | None:
        return None

    def logits(self) -> tuple[float, float]:
        return 1.0, 0.0


def probe() -> Probe:
    return make_probe(tokenize, preprocess, SIDE)


def faulty(text: Fault = sound, image: Fault = sound) -> Networks:
    return Networks(Tower(("input_ids",), text), Tower(("pixel_values",), image))


def always_the_same(vectors: FloatArray, _: npt.NDArray[Any]) -> FloatArray:
    return np.ones_like(vectors) + vectors * 1e-3


def random_noise(vectors: FloatArray, _: npt.NDArray[Any]) -> FloatArray:
    return vectors + np.random.default_rng().normal(size=vectors.shape).astype(np.float32) * 0.1


def overflowing(vectors: FloatArray, _: npt.NDArray[Any]) -> FloatArray:
    with np.errstate(over="ignore"):
        return (vectors * 1e6).astype(np.float16).astype(np.float32)


def underflowing(vectors: FloatArray, _: npt.NDArray[Any]) -> FloatArray:
    return (vectors * 1e-9).astype(np.float16).astype(np.float32)


def batch_scaled(vectors: FloatArray, _: npt.NDArray[Any]) -> FloatArray:
    # As with dynamic int8: one scale for the whole batch.
    scale = np.abs(vectors).max() / 5
    return np.asarray(np.rint(vectors / scale) * scale, dtype=np.float32) + vectors * 0.01


def failing_beyond_17_tokens(vectors: FloatArray, items: npt.NDArray[Any]) -> FloatArray:
    if items.shape[1] > 17:
        raise RuntimeError("Attempting to broadcast an axis: 17 by 40")
    return vectors


def failing_at_40_tokens(vectors: FloatArray, items: npt.NDArray[Any]) -> FloatArray:
    if items.shape[1] >= 40:
        raise RuntimeError("index out of range")
    return vectors


def blind_beyond_17_tokens(vectors: FloatArray, items: npt.NDArray[Any]) -> FloatArray:
    return vectors if items.shape[1] <= 17 else Tower(("input_ids",)).run({"i": items[:, :17]})


def not_a_number_for_one_colour(vectors: FloatArray, items: npt.NDArray[Any]) -> FloatArray:
    spread = items.reshape(len(items), -1).std(axis=1, keepdims=True)
    return vectors * (spread / spread)


FAULTS = [
    (faulty(image=always_the_same),
     r"image 1 and 2 of the check differ .* cosine (1\.0|0\.999).* tell images apart; download"),
    (faulty(text=always_the_same), r"text 1 and 2 of the check differ .* tell texts apart"),
    (faulty(image=random_noise), r"another vector the second time, cosine 0\.9\d+ \(at least 0\.9"),
    (faulty(text=random_noise), r"the second time"),
    (Networks(image=Tower(("pixel_values",), width=WIDTH + 8)),
     r"for (4|2) images .* shape \(\d, 24\), not \(\d, 16\): both networks must make vec"),
    (Networks(text=Tower(("input_ids",), width=1)), r"the text network returns .*, 1\), not"),
    (faulty(image=overflowing), r"with images, .* (4 of 4|2 of 2) are not finite, .* torch-bf16"),
    (faulty(text=underflowing), r"with texts of .* (8 of 8|4 of 4) are not finite, or all zero"),
    (faulty(image=batch_scaled), r"depends on its batch, cosine 0\.9\d+ \(at least 0\.9995\): "),
    (faulty(text=failing_beyond_17_tokens), r"fails with texts of up to \d+ tokens \(.*17 by 40"),
    (faulty(text=failing_at_40_tokens), r"fails with texts of 40 tokens \(index out of range\)"),
    (faulty(text=blind_beyond_17_tokens), r"text (5 and 6|9 and 10) of the check differ"),
    (faulty(image=not_a_number_for_one_colour), r"with images of one colour, .* 2 of 2 are"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(("networks", "says"), FAULTS, ids=[says[:25] for _, says in FAULTS])
@pytest.mark.parametrize("how", ["auto", "named", "decided before"])
def test_a_faulty_model_is_rejected_with_numbers_and_advice(
    tmp_path: Path, networks: Networks, says: str, how: str
) -> None:
    def load(model: Networks) -> object:
        if how == "named":
            return open_explicit(model, EXACT, probe, "cpu")
        cache = ExportCache(tmp_path)
        return choose(model, probe, cache, "f" * 64, device="cpu", threads=1)

    if how == "decided before":
        load(Networks())
    with pytest.raises(ModelLoadError, match=says):
        load(networks)


def test_a_sound_model_passes_all_checks(tmp_path: Path) -> None:
    assert open_explicit(Networks(), EXACT, probe, "cpu").reason == "onnxruntime: as configured"
    chosen = choose(Networks(), probe, ExportCache(tmp_path), "f" * 64, device="cpu", threads=1)
    assert "in a batch 1.00000" in chosen.reason


def test_a_lack_of_memory_is_no_fault_of_the_model() -> None:
    def full(vectors: FloatArray, items: npt.NDArray[Any]) -> FloatArray:
        if len(items) > 1:
            raise RuntimeError("CUDA out of memory")
        return vectors

    assert open_explicit(faulty(image=full), EXACT, probe, "cuda:0").runtime == EXACT


def test_sentences_that_are_the_same_to_a_small_vocabulary_are_not_compared() -> None:
    def unknown(text: str) -> TokenizedText:
        return TokenizedText(np.array([1, *[7] * min(6, len(text.split())), 2]), 8)

    samples = make_probe(unknown, preprocess, SIDE)
    measured = probes.measure(Networks().open(EXACT), samples, rounds=0)
    assert not probes.flaw(measured, samples)


@pytest.mark.parametrize(
    ("limit", "lengths"), [(16, [16, 16]), (77, [40, 40, 77]), (300, [40, 40, 256])]
)
def test_long_texts_have_40_tokens_and_the_limit_up_to_256(limit: int, lengths: list[int]) -> None:
    texts = make_probe(lambda text: tokenize(text, limit), preprocess, SIDE).long_texts
    assert [len(text.ids) for text in texts] == lengths
    half = lengths[0] // 2
    one, other = texts[0].ids, texts[1].ids
    assert np.array_equal(one[:half], other[:half])
    assert not np.array_equal(one[half:], other[half:])
    assert [int(text.ids[-1]) for text in texts] == [2] * len(texts)


# Real networks


def broken_clip(folder: Path, break_it: Callable[[Any], None]) -> ModelChoice:
    pytest.importorskip("torch")
    model = tiny_models.clip(folder / "model")
    break_it(model)
    model.save_pretrained(folder / "model")
    return ModelChoice(str(folder / "model"), "cpu", 1, cache_dir=folder / "cache")


def test_a_network_that_ignores_its_images_is_rejected(tmp_path: Path) -> None:
    def ignore_patches(model: Any) -> None:
        model.vision_model.embeddings.patch_embedding.weight.data.zero_()

    with pytest.raises(ModelLoadError, match=r"image 1 and 2 .*1\.00000.* tell images apart"):
        load_hub_model(broken_clip(tmp_path, ignore_patches))


def test_a_network_that_overflows_in_float16_is_rejected_there_and_served_in_float32(
    tmp_path: Path,
) -> None:
    def enlarge(model: Any) -> None:
        model.visual_projection.weight.data.mul_(1e6)

    choice = broken_clip(tmp_path, enlarge)
    for runtime in ("torch-fp16", "torch"):
        named = ModelChoice(choice.name, "cpu", 1, runtime=runtime, cache_dir=choice.cache_dir)
        if runtime == "torch":
            assert load_hub_model(named).info.dtype == "float32"
            continue
        with pytest.raises(ModelLoadError, match="2 of 2 are not finite, or all zero"):
            load_hub_model(named)
