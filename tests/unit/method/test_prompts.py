from dataclasses import replace

import pytest
from pydantic import ValidationError

from semievol.config import PromptConfig
from semievol.errors import UserError
from semievol.method.prompts import Prompts, shorter
from semievol.tasks import Row
from semievol.tasks.classification import Classification
from semievol.tasks.multiple_choice import MultipleChoice

TASK = MultipleChoice()
PROMPTS = Prompts(TASK)
ROW = Row("Which?", ["x", "y"], None, None)
NEAR, FAR = Row("near", ["a", "b"], None, "A"), Row("far", ["a", "b"], None, "B")


def test_a_plain_prompt_is_one_user_message() -> None:
    asked = f"{TASK.ask(ROW)}\n\n{TASK.instruction}"
    assert PROMPTS.messages(ROW) == [{"role": "user", "content": asked}]


def test_solved_examples_stand_in_the_system_message_nearest_last() -> None:
    system, user = PROMPTS.messages(ROW, examples=[NEAR, FAR], style="careful")
    assert (system["role"], user["role"]) == ("system", "user")
    text = system["content"]
    assert text.startswith(PromptConfig().styles["careful"])
    assert text.index("far") < text.index("near")
    assert text.index("near") < text.index("Answer: A")
    assert "Answer with the letter" not in text  # the instruction is given once, with the question


def test_justification_lists_the_candidates_before_the_question() -> None:
    (user,) = PROMPTS.justification(ROW, ["B", "A"])
    text = user["content"]
    assert text.index("- Answer: B") < text.index("- Answer: A") < text.index("Which?")


def test_a_completion_parses_to_its_answer() -> None:
    (message,) = PROMPTS.completion("B")
    assert message["role"] == "assistant"
    assert TASK.parse(message["content"], ROW) == "B"


def test_own_words_replace_those_of_the_task() -> None:
    config = PromptConfig(
        system="You grade exams.", instruction="One letter.", styles={"plain": "", "brief": "Be brief."}
    )
    system, user = Prompts(TASK, config).messages(ROW, examples=[NEAR], style="brief")
    assert system["content"].startswith("You grade exams.\n\nBe brief.\n\nHere are solved examples.\n\nnear")
    assert user["content"] == "Which?\n\nA. x\nB. y\n\nOne letter."
    assert Prompts(TASK, PromptConfig(instruction="")).messages(ROW)[0]["content"] == "Which?\n\nA. x\nB. y"


def test_templates_see_the_row_and_columns_of_the_file() -> None:
    config = PromptConfig(
        template='{{ subject }} / {{ row["Review title"] }}: {{ question }}\n'
        "{% for option in options %}({{ loop.index }}) {{ option }}\n{% endfor %}{{ instruction }}",
        example_template="{{ question }} => {{ answer }}",
    )
    assert config.columns == ["subject", "Review title"]
    row = Row("Which?", ["x", "{{ 7 * 7 }}"], None, None, fields={"subject": "art", "Review title": "So, so"})
    system, user = Prompts(TASK, config).messages(row, examples=[NEAR])
    assert system["content"].endswith("near => Answer: A")
    assert (
        user["content"] == f"art / So, so: Which?\n(1) x\n(2) {{{{ 7 * 7 }}}}\n{TASK.instruction}"
    )  # rows are not templates
    shown = Prompts(TASK, PromptConfig(template="{{ question }}|{{ instruction }}"))
    assert shown.messages(ROW, examples=[NEAR])[0]["content"].endswith("near|\nAnswer: A")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"template": "{{ question"}, "template.*not a Jinja2 template: line 1"),
        ({"template": "{% for x in %}"}, "not a Jinja2 template"),
        ({"template": "{{ question }} {{ answer }}"}, "must not show the answer"),
        ({"template": "{{ question }} {{ row.answer }}"}, "must not show the answer"),
        ({"template": "{{ question }} {{ row['answer'] }}"}, "must not show the answer"),
        ({"styles": {"brief": "Be brief."}}, "must keep plain"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, problem: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){problem}"):
        PromptConfig(**settings)


def test_a_template_cannot_leave_its_sandbox() -> None:
    for template in ("{{ question.__class__.__mro__ }}", "{{ row.update(question='x') }}", "{{ question / 2 }}"):
        with pytest.raises(UserError, match="prompt: a template cannot be filled in: "):
            Prompts(TASK, PromptConfig(template=template)).messages(ROW)


def test_earlier_turns_stand_between_system_message_and_question() -> None:
    history = [
        {"role": "system", "content": "You are a clerk."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
    ]
    row = Row("And now?", ["x", "y"], None, None, history=history)
    prompt = Prompts(TASK, PromptConfig(system="Be kind.")).messages(row, examples=[NEAR])
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
    assert prompt[0]["content"].startswith("Be kind.\n\nYou are a clerk.\n\nHere are solved examples.")
    assert prompt[1:3] == history[1:]
    system = Prompts(TASK).messages(ROW, examples=[row])[0]
    assert "user: Hello.\nassistant: Hello!\nAnd now?" in system["content"]


def test_a_long_row_loses_examples_then_turns_then_context_then_question() -> None:
    turns = [{"role": role, "content": f"{role} {n}"} for n in (1, 2) for role in ("user", "assistant")]
    row = Row("12345678", [], "abcdefgh", None, history=[{"role": "system", "content": "s"}, *turns])
    steps = list(shorter(row, [NEAR, FAR]))
    assert steps[0] == (row, [NEAR, FAR])
    assert steps[2] == (row, [])
    assert [len(each.history) for each, _ in steps[3:5]] == [3, 1]
    assert steps[4][0].history == row.history[:1] and steps[4][0].context == row.context
    assert (steps[5][0].context, steps[-1][0].context, steps[-1][0].question) == ("abcdefg", None, "8")
    assert row.history[1:] == turns  # the row itself is unchanged


def test_an_example_does_not_depend_on_the_labels_that_were_found_for_it() -> None:
    task = Classification(labels=["a", "b", "c"], show="likeliest")
    shown = [replace(Row("near", [], None, "a"), candidates=listed) for listed in (None, ["b"])]
    for template in (None, "{{ question }} {{ labels | join('/') }} {{ instruction }}"):
        prompts = Prompts(task, PromptConfig(template=template))
        one, other = (prompts.messages(Row("q", [], None, None), examples=[row]) for row in shown)
        assert one == other and "near" in one[0]["content"]
