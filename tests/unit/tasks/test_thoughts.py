"""Thoughts before an answer, in the notations of all families, and turns that a model invents: for every kind of task."""

import pytest

from semievol.tasks import KINDS, Row, Task
from semievol.tasks.parsing.thoughts import closing, first, opened, own_turn, without_thought

ROW = Row("How many?", ["18", "5", "3"], None, None)
ANSWERS = {
    "numeric": ("Answer: 18", "18"),
    "multiple_choice": ("Answer: A", "A"),
    "free_text": ("Answer: 18 boxes", "18 boxes"),
    "open_ended": ("Dear customer, 18.", "Dear customer, 18."),
}
THOUGHT = "Okay, there are 3 boxes of 5, so perhaps the answer is B.\nAnswer: 5\n"
FINISHED = {
    "qwen": f"<think>\n{THOUGHT}</think>\n\n",
    "empty": "<think>\n\n</think>\n\n",
    "opened by the prompt": f"{THOUGHT}</think>\n\n",
    "several": f"<think>{THOUGHT}</think>\n<think>{THOUGHT}</think>",
    "thinking": f"<thinking>{THOUGHT}</thinking>",
    "thought": f"<thought>{THOUGHT}</thought>\n",
    "reasoning": f"<reasoning>\n{THOUGHT}</reasoning>\n",
    "capitals": f"<THINK>{THOUGHT}</THINK>",
    "magistral": f"[THINK]{THOUGHT}[/THINK]",
    "kimi": f"◁think▷{THOUGHT}◁/think▷",
    "seed": f"<seed:think>{THOUGHT}</seed:think>",
    "sky": f"<|begin_of_thought|>{THOUGHT}<|end_of_thought|>\n",
    "command": f"<|START_THINKING|>{THOUGHT}<|END_THINKING|>",
    "gpt-oss": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>",
    "gpt-oss without its tokens": f"analysis{THOUGHT}assistantfinal",
}
UNFINISHED = {
    "qwen": f"<think>\n{THOUGHT}",
    "said before": f"Let me see.\n<think>{THOUGHT}",
    "the second": f"<think>{THOUGHT}</think>\n<think>{THOUGHT}",
    "magistral": f"[THINK]{THOUGHT}",
    "kimi": f"◁think▷{THOUGHT}",
    "sky": f"<|begin_of_thought|>{THOUGHT}",
    "command": f"<|START_THINKING|>{THOUGHT}",
    "gpt-oss": f"<|channel|>analysis<|message|>{THOUGHT}",
    "nothing behind it": f"<think>{THOUGHT}</think>\n\n",
}
kinds = pytest.mark.parametrize("kind", ANSWERS)


def task_of(kind: str) -> Task:
    return KINDS[kind]()  # type: ignore[call-arg]


@kinds
@pytest.mark.parametrize("thought", FINISHED.values(), ids=FINISHED)
def test_a_thought_is_never_an_answer(kind: str, thought: str) -> None:
    response, answer = ANSWERS[kind]
    assert task_of(kind).parse(thought + response, ROW) == task_of(kind).parse(response, ROW) == answer


@kinds
@pytest.mark.parametrize("response", UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_thought_is_no_answer(kind: str, response: str) -> None:
    assert task_of(kind).parse(response, ROW) is None


@pytest.mark.parametrize(
    "run_on",
    [
        "\nuser\nWhat is 2 + 3?\nassistant\n",
        "\n<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n",
        "\n\n### User:\nWhat is 2 + 3?\n\n### Assistant:\n",
        "<|end|>\n<|user|>user\nWhat?\n<|assistant|>model\n",
        "\nhuman\n2 + 3?\nassistant\n<think>\nNow.</think>",
        "\nhuman\n2 + 3?\nassistant\n<think>\nNow it is",
    ],
)
@pytest.mark.parametrize("before", ["", "<think>So far.</think>"])
def test_a_turn_that_a_model_invents_has_no_say(run_on: str, before: str) -> None:
    assert task_of("numeric").parse(f"{before}Answer: 18{run_on}Answer: 5", ROW) == "18"
    assert task_of("multiple_choice").parse(f"{before}Answer: A{run_on}Answer: B", ROW) == "A"


@pytest.mark.parametrize(
    "text",
    [
        "Use the <think> tag of HTML.",
        "Dear user,\nyour assistant is 18.",
        "analysis of variance, 18",
        "[Reasoning]\nIt is 18.",
        "The user\nasked.\nuser\n18",
        "user\nadministrator\nmodel",
        "",
    ],
)
def test_text_that_only_looks_like_it_stays(text: str) -> None:
    assert without_thought(text) == own_turn(text) == text


@kinds
@pytest.mark.parametrize(
    "end", ["<|im_end|>", "<|eot_id|>\n", "</s>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|end|>" * 2]
)
def test_the_end_of_a_turn_is_not_part_of_it(kind: str, end: str) -> None:
    response, answer = ANSWERS[kind]
    assert task_of(kind).parse(response + end, ROW) == answer


def test_tags_and_their_ends() -> None:
    for tag, end in {
        "<think>": "</think>",
        "[THINK]": "[/THINK]",
        "◁think▷": "◁/think▷",
        "<|START_THINKING|>": "<|END_THINKING|>",
        "<|begin_of_thought|>": "<|end_of_thought|>",
    }.items():
        assert opened(f"<|assistant|>{tag}\n") == tag and closing(tag) == end
        assert opened(f"{tag}\n\n{end}\n\n") is None
        assert first(f"{tag}\na{end}\n\nb{end}") == (tag, "\na", f"{end}\n\n", f"b{end}")
    assert first("no <think>a</think>") is None and first("<think>a") is None
