from typing import Any

from semievol.errors import UserError
from semievol.runtime.progress import Console


def test_what_is_new_is_printed_also_while_the_store_is_away() -> None:
    def write_status(**status: Any) -> None:
        written.append(status["done"])
        raise UserError("the store cannot be reached")

    said: list[str] = []
    written: list[int] = []
    console = Console(said.append, write_status)
    for done in (0, 5, 5, 8):
        console("label", done, 10, "half" if done == 5 else "")
    assert written == [0, 5, 5, 8]
    assert [line.split(",")[0] for line in said] == ["  label: 5 of 10 - half", "  label: 8 of 10"]


def test_another_pass_over_the_rows_has_a_rate_of_its_own() -> None:
    said: list[str] = []
    console = Console(said.append, lambda **_: None)
    for done in (4, 10, 2):
        console("label", done, 10, "")
    assert said[-1] == "  label: 2 of 10"  # of the first pass the seconds that are left could be told
