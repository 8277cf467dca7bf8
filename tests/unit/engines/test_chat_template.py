"""What chat templates show, of models that know a system message and of others. TRL's view of it is in tests/e2e."""

import pytest

from semievol.engines.chat_template import ChatTemplate
from semievol.errors import UserError
from tests.support.tokenizer import ALL, RESPONDS, numbers

OTHERWISE = ALL.replace(RESPONDS, "")  # with a response than without
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + ALL
DROPS = ALL.replace("{{ m.content }}", "{% if m.role != 'system' %}{{ m.content }}{% endif %}")
PROMPT = [{"role": "system", "content": "1 2"}, {"role": "user", "content": "3"}]
ANSWER = [{"role": "assistant", "content": "4 5"}]


@pytest.mark.parametrize("template", [ALL, REFUSES, DROPS])
def test_solved_examples_reach_models_without_a_system_message_too(template: str) -> None:
    chat = ChatTemplate(numbers(template))
    assert chat.prompts([PROMPT, PROMPT[1:]]) == [[1, 2, 3, 0], [3, 0]]
    assert chat.exchange(PROMPT, ANSWER) == {"input_ids": [1, 2, 3, 0, 4, 5], "labels": [-100] * 4 + [4, 5]}


@pytest.mark.parametrize("template", [ALL, REFUSES, DROPS])
def test_all_turns_of_the_assistant_can_have_labels(template: str) -> None:
    chat = ChatTemplate(numbers(template))
    prompt = [*PROMPT, {"role": "assistant", "content": "6 7"}, {"role": "user", "content": "8"}]
    ids, no = [1, 2, 3, 0, 6, 7, 8, 0, 4, 5], -100
    assert chat.exchange(prompt, ANSWER) == {"input_ids": ids, "labels": [no] * 8 + [4, 5]}
    every = chat.exchange(prompt, ANSWER, all_turns=True)
    assert every == {"input_ids": ids, "labels": [*[no] * 4, 6, 7, no, no, 4, 5]}


def test_what_no_template_can_show_is_said() -> None:
    with pytest.raises(UserError, match="no chat template"):
        ChatTemplate(numbers(None))
    with pytest.raises(Exception, match="no such role"):
        ChatTemplate(numbers()).prompts([[{"role": "bad", "content": "1"}]])
    with pytest.warns(UserWarning, match="renders a prompt differently when a response follows"):
        ChatTemplate(numbers(OTHERWISE)).exchange(PROMPT, ANSWER)
