"""Python packages that hold a model, as folders on the path, and a GGUF file of a few kilobytes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}<end>{% endfor %}"
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(folder: Path, name: str, files: dict[str, bytes], version: str | None = None) -> Path:
    """Write a package into a folder that is on the path, with the metadata of an installed one if it has a version."""
    package = folder / name
    for file, content in {"__init__.py": b"", **files}.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_bytes(content)
    if version:
        about = folder / f"{name}-{version}.dist-info" / "METADATA"
        about.parent.mkdir()
        about.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    importlib.invalidate_caches()  # folders that were seen a moment ago are not read again
    return package


def write_gguf(file: Path) -> Any:
    """Write a Llama of random weights with a tokenizer of bytes as a GGUF file. Return it as a model of transformers."""
    import torch
    from gguf import GGUFWriter, TokenType
    from tokenizers import pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "ab", "<end>"]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokens), max_position_embeddings=64, rms_norm_eps=1e-5, **shape)
    )
    writer = GGUFWriter(str(file), "llama")
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template(TEMPLATE)
    for name, weights in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:  # llama.cpp pairs the dimensions of rotary embeddings in another order
            weights = weights.reshape(2, 2, 8, 32).swapaxes(1, 2).reshape(32, 32)
        writer.add_tensor(_name(name), weights.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _name(name: str) -> str:
    """Return the name of a tensor in a GGUF file."""
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module = name.removesuffix(".weight")
    if module in outer:
        return f"{outer[module]}.weight"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{_LAYER[inner]}.weight"
