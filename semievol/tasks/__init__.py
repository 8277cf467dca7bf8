"""What a row asks for: how its question is put, how a response is read, when two answers are the same, what is right.

A new kind of task is a class with the members of `Task` in a module of this folder, and an entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from semievol.tasks.base import Row, Task
from semievol.tasks.free_text import FreeText
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.numeric import Numeric
from semievol.tasks.open_ended import OpenEnded

if TYPE_CHECKING:
    from semievol.config import TaskConfig

KINDS: dict[str, Callable[[TaskConfig], Task]] = {
    "multiple_choice": lambda config: MultipleChoice(),
    "numeric": lambda config: Numeric(config.tolerance),
    "free_text": lambda config: FreeText(),
    "open_ended": lambda config: OpenEnded(config.similarity),
}


def make(config: TaskConfig) -> Task:
    """The task of a run."""
    return KINDS[config.kind](config)


def needs_options(config: TaskConfig) -> bool:
    """Whether a row without options cannot be asked."""
    return make(config).problem(Row(question="?", options=[], context=None, answer=None)) is not None


__all__ = ["KINDS", "Row", "Task", "make", "needs_options"]
