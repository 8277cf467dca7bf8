"""How kinds of task are found, and what holds of their settings."""

import pickle

import cloudpickle
import pytest
from pydantic import ValidationError

from semievol.tasks import KINDS, Task
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.numeric import Numeric


def test_each_kind_is_found_by_its_name() -> None:
    assert KINDS["numeric"] is Numeric and KINDS["multiple_choice"] is MultipleChoice
    assert all(issubclass(found, Task) and found.model_fields["kind"].default == kind for kind, found in KINDS.items())


def test_a_task_travels_to_other_processes() -> None:
    task = Numeric(tolerance=0.2)
    assert pickle.loads(pickle.dumps(task)) == cloudpickle.loads(cloudpickle.dumps(task)) == task  # noqa: S301


def test_settings_are_checked_and_stay() -> None:
    with pytest.raises(ValidationError, match="less than 1"):
        Numeric(tolerance=1)
    with pytest.raises(ValidationError, match="frozen"):
        Numeric().tolerance = 0.5  # type: ignore[misc]
