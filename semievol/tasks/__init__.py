"""What a row asks for: how its question is put, how a response is read, when two answers are the same, what is right.

A new kind of task is a class with the members of `Task` in a module of this folder, and an entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from semievol.tasks.base import Row, Task
from semievol.tasks.multiple_choice import MultipleChoice

if TYPE_CHECKING:
    from semievol.config import TaskConfig

KINDS: dict[str, Callable[[TaskConfig], Task]] = {"multiple_choice": lambda config: MultipleChoice()}


def make(config: TaskConfig) -> Task:
    """The task of a run."""
    return KINDS[config.kind](config)


__all__ = ["KINDS", "Row", "Task", "make"]
