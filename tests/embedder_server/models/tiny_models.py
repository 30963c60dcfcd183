"""Model folders of every family with random weights, small enough to make inside a test.

No hub is reachable from CI. What a family computes depends on its architecture and its files, not
on what it learned, so the reference on the same random weights shows whether ours is right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

_CAPTIONS = (
    "a photo of the red dog cat bird boat bicycle coffee mountain river street market child "
    "running jumping playing eating sleeping on in under near with two three many people "
    "at night in the rain on the beach black white green blue yellow old young small large"
)
CORPUS = _CAPTIONS.split()
TEXTS = (
    "a cat",
    "Two DOGS, running on the beach!",
    "",
    "an old red boat near the river at night in the rain with many people and three black birds",
    "naïve café 猫",
    "coffee",
)
SIDE = 32
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "patch_size": 8, "image_size": SIDE,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def scattered(model: Any) -> Any:
    """Give every weight a spread, always the same, with which vectors depend on their input."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(noise * 0.25)
            elif "logit" not in name:
                weight.add_(noise * 0.15)
    return model.eval()


def clip(folder: Path, *, eos_token_id: int | None = None) -> Any:
    """Write a CLIP model; `eos_token_id` 2 is what OpenAI's old configurations say."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = clip_vocabulary()
    CLIPTokenizer(vocabulary, merges).save_pretrained(folder)
    end = len(vocabulary) - 1
    ids = {"eos_token_id": eos_token_id or end, "bos_token_id": end - 1, "pad_token_id": end}
    text = {**TEXT, "vocab_size": len(vocabulary), "max_position_embeddings": 24, **ids}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(folder)
    return saved(scattered(CLIPModel(config)), folder)


def siglip(folder: Path) -> Any:
    """Write a SigLIP model; both `spiece.model`, which transformers reads, and what we read."""
    folder.mkdir(parents=True, exist_ok=True)
    return _siglip(folder, _sentencepiece(folder))


def siglip2_fixed(folder: Path) -> Any:
    """Write a SigLIP 2 model of a fixed size: SigLIP with Gemma's tokenizer, and known by that."""
    folder.mkdir(parents=True, exist_ok=True)
    _gemma(folder)
    return _siglip(folder, 100_001)


def _siglip(folder: Path, size: int) -> Any:
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    text = {**TEXT, "vocab_size": size, "max_position_embeddings": 16, "projection_size": 32}
    config = SiglipConfig(text_config=text, vision_config=VISION)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return saved(scattered(SiglipModel(config)), folder)


def siglip2(folder: Path) -> Any:
    """Write a SigLIP 2 model that takes pictures of any shape."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    folder.mkdir(parents=True, exist_ok=True)
    size = _gemma(folder)
    text = {**TEXT, "vocab_size": size, "max_position_embeddings": 16, "projection_size": 32}
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    config = Siglip2Config(text_config=text, vision_config={**vision, "num_patches": 16})
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20).save_pretrained(folder)
    return saved(scattered(Siglip2Model(config)), folder)


def chinese_clip(folder: Path) -> Any:
    """Write a Chinese-CLIP model; its tokenizer is a `vocab.txt`, as in the hub's repositories."""
    from transformers import ChineseCLIPConfig, ChineseCLIPImageProcessorPil, ChineseCLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    words = bert_words()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    text = {**TEXT, "vocab_size": len(words), "max_position_embeddings": 64}
    config = ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    size = {"height": SIDE, "width": SIDE}
    ChineseCLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False).save_pretrained(
        folder
    )
    return saved(scattered(ChineseCLIPModel(config)), folder)


def bert_words() -> list[str]:
    """Return a vocabulary as in BERT's `vocab.txt`."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [
        *special, *sorted(set(CORPUS)), *"猫狗红色的船", *letters, *(f"##{c}" for c in letters)
    ]  # fmt: skip


def jina(
    folder: Path, *, masked: bool = True, longest: int = 300, version: int = 1, suffix: str = ""
) -> None:
    """Write jina-clip's ONNX files as they are published, over networks of a few kilobytes.

    Args:
        folder: Made.
        masked: Whether the text network leaves padding out of its mean.
        longest: Tokens beyond which the text network fails, as the first exports did at 17.
        version: 1: two files; 2: one graph of both.
        suffix: Of the text file's name, such as `_int8`.
    """
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(CORPUS))]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=50)  # published tokenizers come with such settings
    tokenizer.save(str(folder / "tokenizer.json"))
    _json(folder / "tokenizer_config.json", {"pad_token": "[PAD]", "model_max_length": 8192})
    _json(
        folder / "preprocessor_config.json",
        {"size": SIDE, "resize_mode": "shortest", "interpolation": "bicubic", "fill_color": 0},
    )
    _json(
        folder / "config.json",
        {
            "model_type": "jina_clip",
            "auto_map": {"AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIP"},
            "projection_dim": 12 if version == 1 else 1024,
            "logit_scale_init_value": 2.6592,
            "text_config": {"embed_dim": 12},
        },
    )
    width = 12 if version == 1 else 1024
    text = _jina_text(len(words), width, masked, longest, version)
    image = _jina_image(width, version)
    if version == 2:
        _graph(folder / "onnx" / "model.onnx", text, image)
        return
    _graph(folder / "onnx" / f"text_model{suffix}.onnx", text)
    _graph(folder / "onnx" / "vision_model.onnx", image)


def _jina_text(vocabulary: int, width: int, masked: bool, longest: int, version: int) -> Any:
    random = np.random.default_rng(1)
    constants = {
        "table": random.normal(size=(vocabulary, width)).astype(np.float32),
        # Fails beyond its length, like a position table that an export has frozen.
        "positions": (random.normal(size=(longest, width)) * 0.1).astype(np.float32),
        "zero": np.array(0, dtype=np.int64),
        "one": np.array(1, dtype=np.int64),
        "axis": np.array([1], dtype=np.int64),
        "last": np.array([2], dtype=np.int64),
    }
    node = helper.make_node
    output = "text_embeds" if version == 1 else "text_embeddings"
    nodes = [
        node("Gather", ["table", "input_ids"], ["words"]),
        node("Shape", ["input_ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Range", ["zero", "length", "one"], ["places"]),
        node("Gather", ["positions", "places"], ["place"]),
        node("Add", ["words", "place"], ["hidden"]),
    ]
    if masked:
        nodes += [
            node("Equal", ["input_ids", "zero"], ["is_pad"]),
            node("Not", ["is_pad"], ["is_word"]),
            node("Cast", ["is_word"], ["mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["mask", "last"], ["weights"]),
            node("Mul", ["hidden", "weights"], ["kept"]),
            node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
            node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
            node("Div", ["sum", "count"], [output]),
        ]
    else:
        nodes += [node("ReduceMean", ["hidden"], [output], axes=[1], keepdims=0)]
    given = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])
    return nodes, constants, given, made


def _jina_image(width: int, version: int) -> Any:
    random = np.random.default_rng(2)
    constants = {
        "kernel": (random.normal(size=(width, 3, 8, 8)) * 0.1).astype(np.float32),
    }
    output = "image_embeds" if version == 1 else "image_embeddings"
    node = helper.make_node
    nodes = [
        node("Conv", ["pixel_values", "kernel"], ["patches"], strides=[8, 8]),
        node("Relu", ["patches"], ["active"]),
        node("ReduceMean", ["active"], [output], axes=[2, 3], keepdims=0),
    ]
    given = helper.make_tensor_value_info(
        "pixel_values", TensorProto.FLOAT, ["images", 3, SIDE, SIDE]
    )
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["images", width])
    return nodes, constants, given, made


def _graph(file: Path, *parts: Any) -> None:
    graph = helper.make_graph(
        [node for part in parts for node in part[0]],
        "jina",
        [part[2] for part in parts],
        [part[3] for part in parts],
        [numpy_helper.from_array(a, name) for part in parts for name, a in part[1].items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(file))


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CORPUS * 4, trainer)
    content = json.loads(bpe.to_str())["model"]
    vocabulary = dict(content["vocab"])
    for char in sorted(alphabet):
        vocabulary.setdefault(f"{char}</w>", len(vocabulary))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    return vocabulary, [tuple(merge) for merge in content["merges"]]


def _sentencepiece(folder: Path) -> int:
    import sentencepiece

    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([_CAPTIONS] * 9),
            model_writer=file,
            vocab_size=160,
            pad_id=0,
            bos_id=-1,
            eos_id=1,
            unk_id=2,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            minloglevel=2,
        )
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2))
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _written(tokenizer, folder, "SiglipTokenizer", pad="</s>")


def _gemma(folder: Path) -> int:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CAPTIONS] * 4, trainer)
    return _written(tokenizer, folder, "GemmaTokenizer", pad="<pad>", end="<eos>")


def _written(
    tokenizer: Tokenizer, folder: Path, tokenizer_class: str, pad: str, end: str = "</s>"
) -> int:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": tokenizer_class, "pad_token": pad, "eos_token": end}
    more = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    _json(folder / "tokenizer_config.json", {**settings, **more, "model_max_length": 16})
    return tokenizer.get_vocab_size()


def saved(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return model


def _json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
