"""The kinds of task: how to ask a question, read a response, compare two answers, and score an answer.

A new kind of task is a subclass of `Task` in a module of this folder. `KINDS` finds it by its `kind`.
"""

from importlib import import_module
from pkgutil import iter_modules

from semievol.tasks.base import Row, Task

_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
KINDS: dict[str, type[Task]] = {
    found.model_fields["kind"].default: found
    for module in _MODULES
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Task) and found is not Task
}

__all__ = ["KINDS", "Row", "Task"]
