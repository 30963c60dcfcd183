"""Folders of vision-language models with random weights, small enough to make inside a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.embedder_server.models.tiny_models import CORPUS, scattered

# The pixels of one token: 2 x 2 patches of 8 x 8.
PATCH, MERGE = 8, 2
UNIT = PATCH * MERGE
_QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_GEMMA_TOKENS = (
    "<pad>", "<eos>", "<bos>", "<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio|>",
)  # fmt: skip
# What a conversation of a system message and one content looks like in Qwen's own template.
_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen3_vl(folder: Path) -> Any:
    """Write a Qwen3-VL of three layers, two of which take features of the vision network."""
    from transformers import Qwen3VLConfig, Qwen3VLModel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _bytes_tokenizer(_QWEN_TOKENS)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in _QWEN_TOKENS}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>"}
    _write(folder, "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(_QWEN_TEMPLATE)
    pixels = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": PATCH, "merge_size": MERGE,
        "temporal_patch_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    }  # fmt: skip
    _write(folder, "preprocessor_config.json", pixels)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 96, "intermediate_size": 128,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "max_position_embeddings": 4096, "pad_token_id": ids["<|endoftext|>"],
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10_000.0, "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
            },
        },
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2,
            "out_hidden_size": 96, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    model = scattered(Qwen3VLModel(config))
    model.save_pretrained(folder)
    return model


def embedding_gemma2(folder: Path) -> Any:
    """Write an EmbeddingGemma 2 of two layers, one of each kind, with an audio network."""
    from transformers import EmbeddingGemma2Config, EmbeddingGemma2Model

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _bytes_tokenizer(_GEMMA_TOKENS)
    ids = {token: tokenizer.token_to_id(token) for token in _GEMMA_TOKENS}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    _write(folder, "tokenizer_config.json", settings)
    pixels = {
        "image_processor_type": "Gemma4ImageProcessor", "patch_size": PATCH, "do_normalize": False,
        "pooling_kernel_size": 3, "max_soft_tokens": 280, "resample": 3,
        "rescale_factor": 1 / 255, "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0],
    }  # fmt: skip
    _write(folder, "processor_config.json", {"image_processor": pixels})
    config = EmbeddingGemma2Config(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 48, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "global_head_dim": 32, "sliding_window": 8, "embedding_dim": 160,
            "layer_types": ["sliding_attention", "full_attention"],
            "hidden_size_per_layer_input": 24, "pad_token_id": ids["<pad>"],
            "eos_token_id": ids["<eos>"], "bos_token_id": ids["<bos>"],
        },
        vision_config={
            "model_type": "gemma4_vision", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "head_dim": 16, "patch_size": PATCH, "pooling_kernel_size": 3,
            "position_embedding_size": 1024,
        },
        audio_config={
            "model_type": "gemma4_audio", "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "output_proj_dims": 32, "subsampling_conv_channels": [8, 4],
        },
        boi_token_id=ids["<|image>"], eoi_token_id=ids["<image|>"], image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"], audio_token_id=ids["<|audio|>"],
    )  # fmt: skip
    model = scattered(EmbeddingGemma2Model(config))
    model.save_pretrained(folder)
    return model


def _bytes_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """Return a tokenizer of bytes and a few merges, like Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(CORPUS)], trainer)
    return tokenizer


def _write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))
