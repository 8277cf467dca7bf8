"""Base models of a few kilobytes in the shapes that people bring, with an adapter that is not trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.chat_templates import FAMILIES


def write(folder: Path, family: str = "chatml", *, files: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Write a model of random weights with the tokenizer of a family.

    Args:
        files: changes of JSON files; None removes one.
        settings: of the model's config.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = FAMILIES[family].tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    config = LlamaConfig(**{"vocab_size": len(tokenizer), "max_position_embeddings": 512, **sizes, **ends, **settings})
    torch.manual_seed(0)
    return save(folder, LlamaForCausalLM(config).to(torch.bfloat16), family, files)


def write_multimodal(folder: Path, files: dict[str, Any] | None = None) -> Path:
    """Write a LLaVA of random weights: a model that is used for text, and that vLLM loads with an image processor."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = FAMILIES["content in parts"].tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id, **sizes
    )
    vision = CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=16, **sizes)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, image_token_id=image)
    torch.manual_seed(0)
    return save(folder, LlavaForConditionalGeneration(config).to(torch.bfloat16), "content in parts", files)


def save(folder: Path, model: Any, family: str, files: dict[str, Any] | None) -> Path:
    model.save_pretrained(folder)
    FAMILIES[family].tokenizer().save_pretrained(folder)
    for name, content in (files or {}).items():
        file = folder / name
        if content is None:
            file.unlink(missing_ok=True)
        elif isinstance(content, dict):
            before = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps(before | content))
        else:
            file.write_text(content)
    return folder


def write_adapter(base: Path, folder: Path, lora: Any) -> Path:
    """Write an adapter that changes every layer that it is on."""
    import torch
    from peft import get_peft_model

    from semievol.trainers import worker

    model = get_peft_model(worker._load(str(base), torch.float32), lora)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.5)
    model.save_pretrained(folder)
    return folder
