"""Write a CLIP model in transformers' format, with the real architecture and random weights.

Speed and memory depend on the architecture, not on the weights, and not every machine can reach a
model hub. The vectors mean nothing.

    python -m benchmarks.random_clip base32 FOLDER [--seed 0]

Needs torch, transformers and tokenizers. Does nothing if the folder exists.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.contents import WORDS

_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY = 49408
_MERGES = 1200


@dataclass(frozen=True)
class Shape:
    """Width, layers and heads of both towers."""

    text: tuple[int, int, int]
    vision: tuple[int, int, int]
    patch: int
    side: int
    projection: int


SHAPES = {
    "tiny": Shape(text=(64, 2, 4), vision=(64, 2, 4), patch=16, side=64, projection=32),
    "base32": Shape(text=(512, 12, 8), vision=(768, 12, 12), patch=32, side=224, projection=512),
    "base16": Shape(text=(512, 12, 8), vision=(768, 12, 12), patch=16, side=224, projection=512),
    # Of the size of jina-clip-v1: EVA02-B/16 and a BERT-base, 768 dimensions.
    "jina16": Shape(text=(768, 12, 12), vision=(768, 12, 12), patch=16, side=224, projection=768),
    "large14": Shape(text=(768, 12, 12), vision=(1024, 24, 16), patch=14, side=224, projection=768),
}


def cached(size: str, cache: Path, seed: int = 0) -> Path:
    """Return the folder of this model in `cache`; make it if it does not exist.

    A separate process makes it, so that the caller does not import torch.
    """
    folder = cache / f"random-clip-{size}-seed{seed}"
    if not folder.exists():
        command = [sys.executable, "-m", "benchmarks.random_clip", size, str(folder)]
        subprocess.run([*command, "--seed", str(seed)], check=True)
    return folder


def write(size: str, folder: Path, seed: int) -> None:
    """Write the model to `folder`, which appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unfinished = Path(scratch) / folder.name
        unfinished.mkdir()
        _write_tokenizer(unfinished)
        _write_image_processor(unfinished, SHAPES[size].side)
        _write_weights(unfinished, SHAPES[size], seed)
        shutil.move(unfinished, folder)


def _write_tokenizer(folder: Path) -> None:
    """Train a byte-pair vocabulary on the words of `contents`, and pad it to the real size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import CLIPTokenizer  # noqa: PLC0415

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = Tokenizer(models.BPE(unk_token=_EOS, end_of_word_suffix="</w>"))
    pairs.normalizer = normalizers.Lowercase()
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_MERGES,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    pairs.train_from_iterator(WORDS * 4, trainer)
    pairs.model.save(str(folder))
    path = folder / "vocab.json"
    vocabulary = json.loads(path.read_text())
    for token in [form for character in alphabet for form in (character, character + "</w>")]:
        vocabulary.setdefault(token, len(vocabulary))
    for index in range(len(vocabulary), _VOCABULARY - 2):
        vocabulary[f"<unused{index}>"] = index
    vocabulary[_BOS], vocabulary[_EOS] = _VOCABULARY - 2, _VOCABULARY - 1
    path.write_text(json.dumps(vocabulary))
    tokenizer = CLIPTokenizer(str(path), str(folder / "merges.txt"), model_max_length=77)
    tokenizer.save_pretrained(folder)


def _write_image_processor(folder: Path, side: int) -> None:
    """Write the settings of OpenAI's CLIP, in a form that every transformers release reads."""
    processor = {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "processor_class": "CLIPProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))


def _write_weights(folder: Path, shape: Shape, seed: int) -> None:
    import torch  # noqa: PLC0415
    from transformers import CLIPConfig, CLIPModel  # noqa: PLC0415

    def tower(width: int, layers: int, heads: int) -> dict[str, int]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "projection_dim": shape.projection,
        }

    tokens = {
        "bos_token_id": _VOCABULARY - 2,
        "eos_token_id": _VOCABULARY - 1,
        "pad_token_id": _VOCABULARY - 1,
    }
    config = CLIPConfig(
        text_config={**tower(*shape.text), **tokens, "vocab_size": _VOCABULARY},
        vision_config={
            **tower(*shape.vision),
            "patch_size": shape.patch,
            "image_size": shape.side,
        },
        projection_dim=shape.projection,
    )
    torch.manual_seed(seed)
    CLIPModel(config).eval().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.folder.exists():
        print(f"{arguments.folder} exists")
        return
    write(arguments.size, arguments.folder, arguments.seed)
    megabytes = sum(file.stat().st_size for file in arguments.folder.iterdir()) / 1e6
    print(f"{arguments.folder}: {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
