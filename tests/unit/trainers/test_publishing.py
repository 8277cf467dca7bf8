"""What a training leaves: a model that loads everywhere, with all that stands beside its weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from semievol.config import TrainConfig
from semievol.engines import templates
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.templates import ChatSettings
from semievol.errors import UserError
from semievol.trainers import arguments, companions, worker
from semievol.trainers.base import TrainSpec
from tests.support import bases
from tests.support.chat_templates import FAMILIES

torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
pytest.importorskip("peft")
PROMPT = [{"role": "user", "content": "Up or down?"}]


def publish(base: Path, chat: ChatSettings = templates.OWN_TEMPLATE) -> Path:
    """Return the folder of the merged model, after the checks that come before a training."""
    work = base.parent
    companions.check(str(base), chat, work / "before")
    adapter = bases.write_adapter(base, work / "adapter", arguments.lora("warmup", TrainConfig(), None))
    spec = TrainSpec(str(base), str(work / "out"), TrainConfig(), 0, chat)
    worker._publish(str(base), spec, adapter, work / "merged")
    before = {file.name for file in (work / "before").iterdir()}
    merged = {file.name for file in (work / "merged").iterdir()}
    assert {name for name in merged - before if "safetensors" not in name} == set()
    assert {file.name for file in (work / "out" / "model").iterdir()} == merged
    return work / "merged"


def ends(folder: Path) -> set[int]:
    found = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    return set(found) if isinstance(found, list) else {found}


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ({"temperature": 0.9, "top_p": 0.6}, []),
        ({"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05}, []),
        ({"temperature": 0.7, "do_sample": None}, []),
        ({"temperature": 0.7, "do_sample": True}, []),
        ({"temperature": 0.7, "top_p": 0.8, "do_sample": False}, ["temperature", "top_p"]),
        ({"length_penalty": 0.5, "early_stopping": True}, ["early_stopping", "length_penalty"]),
        ({"length_penalty": 0.5, "num_beams": 4}, []),
        ({"temperature": 0.7, "max_new_tokens": 0, "max_length": 4096}, ["max_new_tokens"]),
        ({"cache_implementation": "of the future", "top_p": 0.9}, ["cache_implementation"]),
        ({"pad_token_id": -1}, ["pad_token_id"]),
        ({"do_sample": False, "num_return_sequences": 4}, ["num_return_sequences"]),
        ({"early_stopping": "maybe"}, ["early_stopping"]),
        ({"chat_format": "chatml", "max_window_size": 6144}, []),
        ({"transformers_version": "4.37.0", "_from_model_config": True}, []),
    ],
)
def test_generation_settings_that_cannot_be_saved_cost_no_training(
    tmp_path: Path, given: dict[str, Any], left_out: list[str]
) -> None:
    base = bases.write(tmp_path / "base", files={"generation_config.json": given})
    merged = publish(base)
    saved = json.loads((merged / "generation_config.json").read_text())
    kept = {k: v for k, v in given.items() if v is not None and k not in left_out and not k.startswith(("_", "transf"))}
    assert saved.items() >= kept.items() and not saved.keys() & set(left_out)
    assert companions.generation_config(str(base))[1] == left_out
    transformers.GenerationConfig.from_pretrained(merged).validate(strict=True)
    transformers.AutoModelForCausalLM.from_pretrained(merged).save_pretrained(tmp_path / "again")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_ends_its_turns_and_knows_its_template(tmp_path: Path, family: str) -> None:
    base = bases.write(tmp_path / "base", family)
    own = FAMILIES[family].tokenizer()
    merged = publish(base)
    assert ends(merged) == set(own.convert_tokens_to_ids([FAMILIES[family].end, FAMILIES[family].eos]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    trained = ChatTemplate(own)
    assert tokenizer.chat_template == trained.source
    assert ChatTemplate(tokenizer).prompts([PROMPT]) == trained.prompts([PROMPT])
    assert ChatTemplate(tokenizer, thinking="on").end == trained.end


@pytest.mark.parametrize(
    "files",
    [
        {"generation_config.json": None},
        {"generation_config.json": {"eos_token_id": [256, 258]}},
        {"generation_config.json": {"eos_token_id": "</s>"}},  # a text: engines take ids
        {"generation_config.json": {"eos_token_id": None}, "config.json": {"eos_token_id": [256]}},
        {"generation_config.json": None, "config.json": {"eos_token_id": None}},
    ],
)
def test_all_ends_that_the_base_names_stay(tmp_path: Path, files: dict[str, Any]) -> None:
    assert ends(publish(bases.write(tmp_path / "base", files=files))) == {256, 258}


def test_another_template_and_mode_go_with_the_model(tmp_path: Path) -> None:
    chat = ChatSettings(templates.source("alpaca"), "on")
    further = {"chat_template.json": {"chat_template": "{{ messages }}"}, "processor_config.json": {"a": 1}}
    merged = publish(bases.write(tmp_path / "base", "qwen3", files=further), chat)
    tokenizer = load_tokenizer(str(merged))
    assert tokenizer.chat_template == chat.template
    assert "### Response:" in tokenizer.decode(ChatTemplate(tokenizer).prompts([PROMPT])[0])
    assert not (merged / "chat_template.json").exists() and (merged / "processor_config.json").exists()


def test_the_files_of_a_processor_travel_and_those_of_other_weights_do_not(tmp_path: Path) -> None:
    carried = {
        "preprocessor_config.json": {"image_processor_type": "Gemma3ImageProcessor"},
        "video_preprocessor_config.json": {"size": {"height": 2}},
        **{
            name: {"a": 1}
            for name in ("processor_config.json", "chat_template.json", "vocab.json", "audio_config.json")
        },
        **dict.fromkeys(("merges.txt", "tokenizer.model", "added.tiktoken", "special.jinja"), "x"),
    }
    left = {
        **{name: {"a": 1} for name in ("quantize_config.json", "hf_quant_config.json", "params.json")},
        **{name: {"a": 1} for name in ("model.safetensors.index.json", "trainer_state.json", "all_results.json")},
        "consolidated.safetensors.index.json": {"a": 1},
        **dict.fromkeys(("README.md", "LICENSE.txt", "modeling_own.py", "training_args.bin", "model.gguf"), "x"),
        **dict.fromkeys(
            ("pytorch_model.bin", "original.pth", "tf_model.h5", ".gitattributes", "requirements.txt"), "x"
        ),
    }
    merged = publish(bases.write(tmp_path / "base", files=carried | left))
    names = {file.name for file in merged.iterdir()}
    assert names >= carried.keys() and not names & left.keys()
    assert json.loads((merged / "preprocessor_config.json").read_text()) == carried["preprocessor_config.json"]


def test_a_multimodal_base_stays_one(tmp_path: Path) -> None:
    base = bases.write_multimodal(tmp_path / "base", {"preprocessor_config.json": {"image_processor_type": "CLIP"}})
    merged = publish(base)
    config = transformers.AutoConfig.from_pretrained(merged)
    assert config.architectures == transformers.AutoConfig.from_pretrained(base).architectures
    names = {name for name, _ in worker._load(str(merged), torch.float32).named_parameters()}
    assert names == {name for name, _ in worker._load(str(base), torch.float32).named_parameters()}
    assert any("vision" in name for name in names)
    assert (merged / "preprocessor_config.json").exists()
    assert "Up or down?" in load_tokenizer(str(merged)).decode(
        ChatTemplate(load_tokenizer(str(merged))).prompts([PROMPT])[0]
    )


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"tie_word_embeddings": True}, {}),
        ({"tie_word_embeddings": False}, {}),
        ({}, {"config.json": {"dtype": None}}),
        ({}, {"config.json": {"temperature": 0.7, "do_sample": True, "max_length": 30, "num_beams": 2}}),
        ({}, {"config.json": {"pad_token_id": -1}}),
        ({"bias": True, "attention_bias": True}, {}),
    ],
)
def test_a_merged_model_says_what_base_and_adapter_say(tmp_path: Path, settings: dict[str, Any], files: Any) -> None:
    from peft import PeftModel

    base = bases.write(tmp_path / "base", files=files, **settings)
    merged = publish(base)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        plain = worker._load(str(base), torch.float32)
        before = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))(ids).logits
        said = worker._load(str(merged), torch.float32)(ids).logits
    assert (before - adapted).abs().max() > 0.1
    assert torch.allclose(said, adapted, atol=0.05)


def test_a_base_in_shards_is_published(tmp_path: Path) -> None:
    base = bases.write(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="5KB")
    assert (base / "model.safetensors.index.json").exists()
    merged = publish(base)
    assert (merged / "model.safetensors").exists() and not (merged / "model.safetensors.index.json").exists()


def test_what_cannot_be_published_is_refused_before_the_training(tmp_path: Path) -> None:
    quantized = bases.write(tmp_path / "a", files={"config.json": {"quantization_config": {"quant_method": "awq"}}})
    with pytest.raises(UserError, match=r"model\.base: the weights of .* are quantized \(awq\)"):
        companions.check(str(quantized), templates.OWN_TEMPLATE, tmp_path / "x")
    adapter = bases.write(tmp_path / "d", files={"adapter_config.json": {"peft_type": "LORA"}})
    with pytest.raises(UserError, match=r"model\.base: .* holds an adapter"):
        companions.check(str(adapter), templates.OWN_TEMPLATE, tmp_path / "w")
    broken = bases.write(tmp_path / "b", files={"generation_config.json": "{"})
    with pytest.raises(UserError, match=r"model\.base: .* cannot be saved .*generation_config\.json"):
        companions.check(str(broken), templates.OWN_TEMPLATE, tmp_path / "y")
    endless = bases.write(tmp_path / "e", files={"tokenizer_config.json": {"eos_token": None}})
    with pytest.raises(UserError, match=r"never stop\. Name an eos_token"):
        companions.check(
            str(endless), ChatSettings("{% for m in messages %}{{ m.content }}{% endfor %}"), tmp_path / "v"
        )
    unusable = ChatSettings("{{ raise_exception('no') }}")
    with pytest.raises(UserError, match=r"model\.chat_template"):
        companions.check(str(bases.write(tmp_path / "c")), unusable, tmp_path / "z")
