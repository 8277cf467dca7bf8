from semievol.method import prompts
from semievol.tasks import Row
from semievol.tasks.multiple_choice import MultipleChoice

TASK = MultipleChoice()
ROW = Row("Which?", ["x", "y"], None, None)
NEAR, FAR = Row("near", ["a", "b"], None, "A"), Row("far", ["a", "b"], None, "B")


def test_a_plain_prompt_is_one_user_message() -> None:
    assert prompts.messages(TASK, ROW) == [{"role": "user", "content": TASK.ask(ROW)}]


def test_solved_examples_stand_in_the_system_message_nearest_last() -> None:
    system, user = prompts.messages(TASK, ROW, examples=[NEAR, FAR], style="careful")
    assert (system["role"], user["role"]) == ("system", "user")
    text = system["content"]
    assert text.startswith(prompts.STYLES["careful"])
    assert text.index("far") < text.index("near")
    assert text.index("near") < text.index("Answer: A")
    assert "Answer with the letter" not in text  # the instruction is given once, with the question


def test_justification_lists_the_candidates_before_the_question() -> None:
    (user,) = prompts.justification(TASK, ROW, ["B", "A"])
    text = user["content"]
    assert text.index("- Answer: B") < text.index("- Answer: A") < text.index("Which?")


def test_a_completion_parses_to_its_answer() -> None:
    (message,) = prompts.completion(TASK, "B")
    assert message["role"] == "assistant"
    assert TASK.parse(message["content"], ROW) == "B"
