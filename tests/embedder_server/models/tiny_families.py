"""Folders of the families that are read in one way, with random weights; see `tiny_models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.embedder_server.models.tiny_models import (
    CORPUS,
    SIDE,
    TEXT,
    VISION,
    bert_words,
    clip_vocabulary,
    saved,
    scattered,
)

SQUARE = {"height": SIDE, "width": SIDE}
NAMES = ("metaclip_2", "tipsv2", "altclip", "aimv2", "align", "flava", "dual_encoder")


def metaclip_2(folder: Path) -> Any:
    """Write a MetaCLIP 2 model: CLIP with XLM-RoBERTa's tokenizer, whose end token is 2."""
    from transformers import CLIPImageProcessorPil, MetaClip2Config, MetaClip2Model

    size = _xlm_roberta(folder)
    ids = {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    text = {**TEXT, "vocab_size": size, "max_position_embeddings": 24, **ids}
    config = MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=24)
    CLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE).save_pretrained(folder)
    return saved(scattered(MetaClip2Model(config)), folder)


def tipsv2(folder: Path) -> Any:
    """Write a TIPSv2 model, its image settings as its processor writes them."""
    import json

    from transformers import Tipsv2Config, Tipsv2Model, Tipsv2Tokenizer

    vocabulary, merges = _pieces()
    Tipsv2Tokenizer(vocabulary, merges, model_max_length=24).save_pretrained(folder)
    text = {**TEXT, "vocab_size": len(vocabulary), "max_position_embeddings": 24}
    vision = {**VISION, "mlp_ratio": 2}
    del vision["intermediate_size"]
    config = Tipsv2Config(text_config=text, vision_config=vision)
    settings = {
        "do_convert_rgb": True, "do_normalize": False, "do_rescale": True, "do_resize": True,
        "image_processor_type": "Tipsv2ImageProcessor", "resample": 2, "size": SQUARE,
        "rescale_factor": 1 / 255,
    }  # fmt: skip
    nested = {"processor_class": "Tipsv2Processor", "image_processor": settings}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    model = scattered(Tipsv2Model(config))
    # Its pixels are not normalised: trained kernels weigh differences, not the brightness that
    # all images have.
    kernels = model.vision_model.embeddings.patch_embeddings.projection.weight.data
    kernels -= 0.9 * kernels.mean((1, 2, 3), keepdim=True)
    kernels *= 4
    return saved(model, folder)


def altclip(folder: Path) -> Any:
    """Write an AltCLIP model: XLM-RoBERTa, whose first two positions no token gets."""
    from transformers import AltCLIPConfig, AltCLIPModel, CLIPImageProcessorPil

    size = _xlm_roberta(folder)
    text = {
        **TEXT, "vocab_size": size, "max_position_embeddings": 42, "project_dim": 24,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "hidden_dropout_prob": 0.0,
    }  # fmt: skip
    vision = {**VISION, "projection_dim": 24}
    config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE).save_pretrained(folder)
    return saved(scattered(AltCLIPModel(config)), folder)


def aimv2(folder: Path) -> Any:
    """Write an AIMv2 model with its text network."""
    from transformers import Aimv2Config, Aimv2Model, CLIPImageProcessorPil, CLIPTokenizer

    vocabulary, merges = clip_vocabulary()
    CLIPTokenizer(vocabulary, merges).save_pretrained(folder)
    text = {
        **TEXT, "vocab_size": len(vocabulary), "max_position_embeddings": 24,
        "eos_token_id": len(vocabulary) - 1,
    }  # fmt: skip
    config = Aimv2Config(text_config=text, vision_config=VISION, projection_dim=24)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE).save_pretrained(folder)
    model = saved(scattered(Aimv2Model(config)), folder)
    # With the default one, a text's vector depends on whether a text beside it is padded.
    model.set_attn_implementation("eager")
    return model


def align(folder: Path) -> Any:
    """Write an ALIGN model: BERT and an EfficientNet that takes values from -1 to 1."""
    from transformers import AlignConfig, AlignModel, EfficientNetImageProcessorPil

    size = _bert(folder, 24)
    text = {**TEXT, "vocab_size": size, "max_position_embeddings": 40}
    vision = {
        "image_size": SIDE, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 24,
        "depth_divisor": 4, "in_channels": [32, 16], "out_channels": [16, 96],
        "kernel_sizes": [3, 3], "strides": [1, 2], "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2], "drop_connect_rate": 0.0,
    }  # fmt: skip
    config = AlignConfig(text_config=text, vision_config=vision, projection_dim=24)
    EfficientNetImageProcessorPil(
        size={"height": 38, "width": 38}, crop_size=SQUARE, do_center_crop=True, resample=2,
        rescale_factor=2 / 255, rescale_offset=True, do_normalize=False, include_top=False,
    ).save_pretrained(folder)  # fmt: skip
    model = scattered(AlignModel(config))
    _calibrate(model.vision_model)
    return saved(model, folder)


def _calibrate(network: Any) -> None:
    """Give batch normalisation the averages of some images; with 0 and 1, every image fades."""
    import torch

    images = torch.rand((16, 3, 4, 4), generator=torch.Generator().manual_seed(1)) * 2 - 1
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.nn.functional.interpolate(images, size=(SIDE, SIDE)))
    network.eval()


def flava(folder: Path) -> Any:
    """Write a FLAVA model, which has a vector for each token; the first is the text's."""
    from transformers import FlavaConfig, FlavaImageProcessorPil, FlavaModel

    size = _bert(folder, 64)
    text = {**TEXT, "vocab_size": size, "max_position_embeddings": 64}
    config = FlavaConfig(
        text_config=text, image_config=VISION, multimodal_config=TEXT, projection_dim=24,
        hidden_size=TEXT["hidden_size"],
    )  # fmt: skip
    FlavaImageProcessorPil(size=SQUARE, crop_size=SQUARE).save_pretrained(folder)
    return saved(scattered(FlavaModel(config)), folder)


def dual_encoder(folder: Path) -> Any:
    """Write a pair of any two networks: here a ViT and an XLM-RoBERTa."""
    from transformers import (
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
        ViTImageProcessorPil,
        XLMRobertaConfig,
    )

    size = _xlm_roberta(folder)
    text = XLMRobertaConfig(
        **TEXT, vocab_size=size, max_position_embeddings=42, pad_token_id=1, type_vocab_size=1
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**VISION), text, projection_dim=24
    )
    ViTImageProcessorPil(size=SQUARE).save_pretrained(folder)
    return saved(scattered(VisionTextDualEncoderModel(config)), folder)


def _xlm_roberta(folder: Path) -> int:
    """Write XLM-RoBERTa's tokenizer; return the number of tokens."""
    from transformers import XLMRobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=[*special, "<mask>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(CORPUS)] * 4, trainer)
    scores = {token: -float(i) for token, i in tokenizer.get_vocab().items()}
    words = sorted(set(scores) - {*special, "<mask>"})
    pieces = [*((token, 0.0) for token in special), *((word, scores[word]) for word in words)]
    pieces.append(("<mask>", 0.0))
    XLMRobertaTokenizer(vocab=pieces, model_max_length=40).save_pretrained(folder)
    return len(pieces)


def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges as in TIPSv2's tokenizer, which falls back to bytes."""
    import json

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([" ".join(CORPUS)] * 4, trainer)
    content = json.loads(tokenizer.to_str())["model"]
    return content["vocab"], [tuple(merge) for merge in content["merges"]]


def _bert(folder: Path, limit: int) -> int:
    """Write BERT's tokenizer; return the number of tokens."""
    from transformers import BertTokenizer

    words = {word: number for number, word in enumerate(bert_words())}
    BertTokenizer(words, model_max_length=limit).save_pretrained(folder)
    return len(words)
