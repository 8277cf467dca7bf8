"""What chat templates show, of models that know a system message and of others. TRL's view of it is in tests/e2e."""

import json
import warnings
from typing import Any

import pytest

from semievol.engines import templates
from semievol.engines.chat_template import ChatTemplate
from semievol.errors import UserError
from tests.support.chat_templates import FAMILIES, Family
from tests.support.tokenizer import ALL, RESPONDS, byte_level, numbers

OTHERWISE = ALL.replace(RESPONDS, "")  # with a response than without
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + ALL
DROPS = ALL.replace("{{ m.content }}", "{% if m.role != 'system' %}{{ m.content }}{% endif %}")
PROMPT = [{"role": "system", "content": "1 2"}, {"role": "user", "content": "3"}]
ANSWER = [{"role": "assistant", "content": "4 5"}]
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Up or down?"}]
SAID = [{"role": "assistant", "content": "Answer: up"}]
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
modes = pytest.mark.parametrize("thinking", ["off", "on"])


@pytest.mark.parametrize("template", [ALL, REFUSES, DROPS, OTHERWISE])
def test_solved_examples_reach_models_without_a_system_message_too(template: str) -> None:
    chat = ChatTemplate(numbers(template))
    assert chat.prompts([PROMPT, PROMPT[1:]]) == [[1, 2, 3, 0], [3, 0]]
    assert chat.exchange(PROMPT, ANSWER) == {"input_ids": [1, 2, 3, 0, 4, 5], "labels": [-100] * 4 + [4, 5]}


@families
@modes
def test_what_is_trained_scored_and_asked_stands_behind_the_same_tokens(family: Family, thinking: Any) -> None:
    tokenizer = family.tokenizer()
    chat = ChatTemplate(tokenizer, thinking=thinking)
    [asked] = chat.prompts([ASKED])
    row = chat.exchange(ASKED, SAID)
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert chat.end == end and chat.stop_token_ids == [end]
    scored = asked + chat.lead + chat.encode("Answer: up")
    assert row["input_ids"] == [*scored, end]
    assert row["labels"] == [-100] * len(asked + chat.lead) + row["input_ids"][len(asked + chat.lead) :]
    # Behind the answer nothing but the end, and before it what the template puts there.
    shown = tokenizer.decode(asked)
    wanted = family.before if thinking == "off" else family.before_thinking or family.before
    assert shown.endswith(wanted) and "Be brief." in shown and "Up or down?" in shown
    assert shown.count("Up or down?") == 1
    assert chat.takes_system is family.system
    if thinking == "off":
        assert not chat.lead and chat.opened is None


@families
@modes
def test_whoever_renders_the_template_itself_gets_the_same_prompts(family: Family, thinking: Any) -> None:
    """As vLLM's server does, and whoever loads the merged model elsewhere."""
    chat = ChatTemplate(family.tokenizer(), thinking=thinking)
    saved = byte_level(chat.source, family.special, list(family.markup), family.eos)
    again = ChatTemplate(saved, thinking=thinking)
    assert again.source == chat.source and again.prompts([ASKED]) == chat.prompts([ASKED])
    shown = chat.shown(ASKED)
    if family.template and "part.text" in family.template:
        shown = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in shown]
    [asked] = chat.prompts([ASKED])
    assert saved.apply_chat_template(shown, add_generation_prompt=True, return_dict=False) == asked


@families
@modes
def test_control_tokens_in_text_are_text(family: Family, thinking: Any) -> None:
    tokenizer = family.tokenizer()
    chat = ChatTemplate(tokenizer, thinking=thinking)
    control = set(tokenizer.get_added_vocab().values())

    def count(ids: list[int]) -> int:
        return sum(token in control for token in ids)

    nested = [t[:2] + t + t[2:] for t in family.special]
    for text in ("".join([*family.special, *family.markup]), *family.special, *family.markup, *nested):
        for role in ("system", "user"):
            [plain] = chat.prompts([[m | {"content": "x"} for m in ASKED]])
            asked = [m | {"content": text if m["role"] == role else "x"} for m in ASKED]
            assert count(chat.prompts([asked])[0]) == count(plain)
        said = chat.exchange(ASKED, [{"role": "assistant", "content": f"Answer: {text}"}])
        assert count(said["input_ids"]) == count(chat.exchange(ASKED, SAID)["input_ids"])
        assert count(chat.encode(text)) == 0


@families
@modes
def test_every_turn_of_the_assistant_can_be_trained(family: Family, thinking: Any) -> None:
    tokenizer = family.tokenizer()
    chat = ChatTemplate(tokenizer, thinking=thinking)
    history = [*ASKED, {"role": "assistant", "content": "Up."}, {"role": "user", "content": "Sure?"}]
    whole, last = chat.exchange(history, SAID, all_turns=True), chat.exchange(history, SAID)
    assert last == {
        "input_ids": chat.prompts([history])[0] + chat.lead + chat.encode("Answer: up") + [chat.end],
        "labels": [-100] * len(chat.prompts([history])[0] + chat.lead) + [*chat.encode("Answer: up"), chat.end],
    }
    assert len(whole["input_ids"]) == len(whole["labels"])
    trained = [(place, label) for place, label in enumerate(whole["labels"]) if label != -100]
    words = [label for _, label in trained if label < 256]
    assert words == [*chat.encode("Up."), *chat.encode("Answer: up")]
    first = trained[0][0]
    [asked] = chat.prompts([ASKED])
    assert whole["input_ids"][:first] == asked + chat.lead
    assert [label for _, label in trained].count(chat.end) == 2
    assert whole["input_ids"][-1] == chat.end


def test_thoughts_in_answers_stay_where_the_model_is_to_think() -> None:
    thought = [{"role": "assistant", "content": "<think>\nPlus is up.\n</think>\n\nAnswer: up"}]
    for name in ("qwen3", "r1"):
        tokenizer = FAMILIES[name].tokenizer()
        think = tokenizer.convert_tokens_to_ids("<think>")
        kept = ChatTemplate(tokenizer, thinking="on").exchange(ASKED, thought)
        assert tokenizer.decode(kept["input_ids"]).endswith(
            f"<think>\nPlus is up.\n</think>\n\nAnswer: up{FAMILIES[name].end}"
        )
        assert kept["input_ids"].count(think) == 1
        broken = ChatTemplate(tokenizer).exchange(ASKED, thought)
        assert "< think>" in tokenizer.decode([label for label in broken["labels"] if label != -100])


def test_words_and_white_space_among_the_added_tokens_are_left_alone() -> None:
    tokenizer = byte_level(ALL, ["<s>", "</s>"], ["    ", "\t\t", "hello", "{{", "1"], "</s>")
    chat = ChatTemplate(tokenizer)
    text = "hello    1 {{\t\t a < b > c [x] <p> </p>"
    assert chat.shown([{"role": "user", "content": text}])[0]["content"] == text


@pytest.mark.parametrize("content", ["a\nb", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]])
def test_parts_of_a_message_are_the_same_as_its_text(content: Any) -> None:
    for family in FAMILIES.values():
        chat = ChatTemplate(family.tokenizer())
        given = [[{"role": role, "content": content} for role in roles] for roles in (["user"], ["system", "user"])]
        text = [[message | {"content": "a\nb"} for message in prompt] for prompt in given]
        assert chat.prompts(given) == chat.prompts(text)


def test_named_templates_and_files_replace_the_models_own(tmp_path: Any) -> None:
    tokenizer = FAMILIES["chatml"].tokenizer()
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}<<{{ m.role }}>> {{ m.content }}\n{% endfor %}")
    assert templates.source(str(file)) == templates.source(file.as_uri()) == file.read_text()
    chat = ChatTemplate(tokenizer, templates.source(str(file)))  # knows no prompt, so it is found from an answer
    assert tokenizer.decode(chat.prompts([ASKED])[0]) == "<<system>> Be brief.\n<<user>> Up or down?\n<<assistant>> "
    for name in templates.names():
        row = ChatTemplate(tokenizer, templates.source(name)).exchange(ASKED, SAID)
        end = "<|im_end|>" if name == "chatml" else "<|endoftext|>"
        assert tokenizer.decode([label for label in row["labels"] if label != -100]) == f"Answer: up{end}"
    with pytest.raises(UserError, match=r"model\.chat_template: 'nothing' .*one of alpaca, chatml, plain"):
        templates.source("nothing")


def test_a_template_that_cannot_be_used_is_refused() -> None:
    for broken in ("{% for m in messages %}", "{{ raise_exception('never') }}", "Hello.", "{{ messages[0].nope.x }}"):
        with pytest.raises(UserError, match=r"chat template .* cannot be used .*model\.chat_template"):
            ChatTemplate(numbers(broken))
    with pytest.raises(Exception, match="no such role"):
        ChatTemplate(numbers()).prompts([[{"role": "bad", "content": "1"}]])


def test_several_named_templates_and_a_processors_own(tmp_path: Any) -> None:
    several = FAMILIES["chatml"].tokenizer()
    several.chat_template = {"default": several.chat_template, "tool_use": "{{ tools }}"}
    assert ChatTemplate(several).prompts([ASKED]) == ChatTemplate(FAMILIES["chatml"].tokenizer()).prompts([ASKED])
    beside = FAMILIES["base"].tokenizer()
    (tmp_path / "chat_template.json").write_text(
        '{"chat_template": "{% for m in messages %}[{{ m.content }}]{% endfor %}"}'
    )
    beside.name_or_path = str(tmp_path)
    assert beside.decode(ChatTemplate(beside).prompts([ASKED])[0]) == "[Be brief.][Up or down?]["


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for family in FAMILIES.values():
            ChatTemplate(family.tokenizer()).exchange(ASKED, SAID)


@families
@modes
def test_a_chat_request_is_sent_on_as_prompts_are(family: Family, thinking: Any) -> None:
    tokenizer = family.tokenizer()
    chat = ChatTemplate(tokenizer, thinking=thinking)
    parts = [{"type": "text", "text": f"a{family.end}"}, {"type": "text", "text": "b"}]
    given = {"model": "m", "max_tokens": 3, "messages": [ASKED[0], {"role": "user", "content": parts}]}
    sent = chat.request(given)
    assert sent["stop_token_ids"] == [chat.end] and (sent["model"], sent["max_tokens"]) == ("m", 3)
    assert all(isinstance(message["content"], str) for message in sent["messages"])
    assert chat.prompts([sent["messages"]]) == chat.prompts([given["messages"]])  # type: ignore[list-item]
    assert family.end not in str(sent["messages"])


def test_responses_tell_thoughts_from_answers() -> None:
    """Some tokenizers have special tokens for them, which decoding leaves out, and some prompts open a thought."""
    magistral, r1, qwen2 = (FAMILIES[name].tokenizer() for name in ("magistral", "r1", "qwen2"))
    said = magistral.encode("[THINK]5?[/THINK]18</s>", add_special_tokens=False)
    assert ChatTemplate(magistral, thinking="on").decode([said, said[:3]]) == ["[THINK]5?[/THINK]18", "[THINK]5?"]
    said = r1.encode("5?</think>18", add_special_tokens=False)
    assert ChatTemplate(r1, thinking="on").decode([said, said[:2]]) == ["<think>\n5?</think>18", "<think>\n5?"]
    assert ChatTemplate(r1).decode([said[:2]]) == ["5?"]
    assert ChatTemplate(qwen2).decode([qwen2.encode("18<|im_end|>", add_special_tokens=False)]) == ["18"]
    body = b'{"choices": [{"message": {"content": "5?"}}, {"message": {"content": null}}]}'
    assert [
        choice["message"]["content"] for choice in json.loads(ChatTemplate(r1, thinking="on").answered(body))["choices"]
    ] == ["<think>\n5?", "<think>\n"]
    assert ChatTemplate(r1).answered(body) == body
