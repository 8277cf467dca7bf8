"""Which labeled rows become test and validation rows, and what is left in the folders."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from semievol.data import carve, storage
from semievol.data.tables import LABELED, fill
from semievol.errors import UserError
from semievol.tasks.classification import Classification
from semievol.tasks.free_text import FreeText

LABELS, SETS = Classification(), Classification(multiple=True)


def rows(**labels: int) -> dict[int, str]:
    """So many rows of each label, by ids like those of real content."""
    names = [label for label, n in labels.items() for _ in range(n)]
    return {(i * 0x9E3779B97F4A7C15 + 12345) % 2**64 - 2**63: name for i, name in enumerate(names)}


def taken(answers: dict[int, str], chosen: set[int]) -> Counter[str]:
    return Counter(answers[row] for row in chosen)


def test_each_label_gives_its_share() -> None:
    answers = rows(a=100, b=50, c=10)
    chosen, absent = carve.choose(answers, {"test": 0.2, "validation": 0.1}, LABELS)
    assert taken(answers, chosen["test"]) == {"a": 20, "b": 10, "c": 2}
    assert taken(answers, chosen["validation"]) == {"a": 10, "b": 5, "c": 1}
    assert not chosen["test"] & chosen["validation"] and absent == {"test": 0, "validation": 0}


def test_remainders_add_up_to_the_share_of_all() -> None:
    answers = rows(**{f"label-{i}": 3 for i in range(77)})  # 0.6 of a row each
    chosen, absent = carve.choose(answers, {"test": 0.2}, LABELS)
    assert len(chosen["test"]) == 46 == round(0.2 * 231) and max(taken(answers, chosen["test"]).values()) == 1
    assert absent == {"test": 31}


def test_the_last_row_of_a_label_stays_labeled() -> None:
    for share in (0.01, 0.2, 0.5, 0.9):
        answers = rows(a=40, b=2, c=1, **{f"once-{i}": 1 for i in range(30)})
        chosen, _ = carve.choose(answers, {"test": share}, LABELS)
        left = {answers[row] for row in answers.keys() - chosen["test"]}
        assert left == set(answers.values()) and chosen["test"]
    chosen, _ = carve.choose(rows(a=3, b=4), {"test": 0.5, "validation": 0.4}, LABELS)
    assert sum(map(len, chosen.values())) <= 5


def test_no_order_changes_the_parts_and_more_rows_move_few() -> None:
    answers = rows(a=300, b=200, c=100)
    chosen, _ = carve.choose(answers, {"test": 0.2, "validation": 0.2}, LABELS)
    turned = dict(sorted(answers.items(), key=lambda item: str(item)[::-1]))
    assert carve.choose(turned, {"test": 0.2, "validation": 0.2}, LABELS)[0] == chosen
    more = rows(a=300, b=200, c=100, a2=0) | dict.fromkeys(range(1, 61), "a")
    grown, _ = carve.choose(more, {"test": 0.2, "validation": 0.2}, LABELS)
    for part in ("test", "validation"):
        old = {row for row in grown[part] if row in answers}
        assert len(chosen[part] ^ old) <= 12  # of 120, after a tenth more rows
    # one part does not depend on the share of the other
    assert carve.choose(answers, {"test": 0.2}, LABELS)[0]["test"] == chosen["test"]
    assert carve.choose(answers, {"validation": 0.2}, LABELS)[0]["validation"] == chosen["validation"]


def test_open_answers_have_no_strata() -> None:
    answers = rows(**{f"answer {i}": 1 for i in range(50)})
    chosen, _ = carve.choose(answers, {"test": 0.2}, FreeText())
    assert len(chosen["test"]) == 10
    with pytest.raises(UserError, match=r"data.test: 0.2 of 50 labeled rows is no row, as each label keeps one"):
        carve.choose(answers, {"test": 0.2}, LABELS)
    with pytest.raises(
        UserError, match=r"data.validation: 0.01 of 20 labeled rows is no row.*name a file of validation"
    ):
        carve.choose(rows(a=20), {"validation": 0.01}, FreeText())
    with pytest.raises(UserError, match=r"data.test: 0.2 of 1 labeled rows"):
        carve.choose(rows(a=1), {"test": 0.2}, LABELS)


def test_a_row_of_several_labels_counts_for_its_rarest() -> None:
    sets = [["common"], ["common", "rare"], ["common", "middling"], ["middling"], []]
    answers = rows(**{json.dumps(labels): n for labels, n in zip(sets, (60, 5, 20, 10, 5), strict=True)})
    chosen, _ = carve.choose(answers, {"test": 0.2}, SETS)

    def having(chosen_rows: set[int], label: str) -> int:
        return sum(label in json.loads(answers[row]) for row in chosen_rows)

    assert len(chosen["test"]) == 20
    assert having(chosen["test"], "rare") == 1 and having(chosen["test"], "middling") == 6
    unique = {row: json.dumps(["all", f"tag-{i % 9}", f"tag-{i % 13}"]) for i, row in enumerate(rows(a=100))}
    chosen, _ = carve.choose(unique, {"test": 0.2}, SETS)  # hardly a set is there twice
    assert len(chosen["test"]) == 20
    left = {label for row in unique.keys() - chosen["test"] for label in json.loads(unique[row])}
    assert left == {label for answer in unique.values() for label in json.loads(answer)}


def test_odd_labels_are_labels() -> None:
    answers = rows(**{"[other]": 10, "[1, 2": 10, "": 10, "日本": 10, "3.5": 10})
    assert taken(answers, carve.choose(answers, {"test": 0.2}, LABELS)[0]["test"]) == dict.fromkeys(answers.values(), 2)


def table(answers: dict[int, str]) -> pa.Table:
    ids = list(answers)
    columns = {"row_id": ids, "question": [f"q{i}" for i in ids], "answer": list(answers.values())}
    return fill(columns, LABELED)


def test_rows_move_between_folders_once_however_often_it_is_begun(tmp_path: Path) -> None:
    answers = rows(a=60, b=40)
    ids = list(answers)
    parts = [{row: answers[row] for row in ids[start::3]} for start in range(3)]
    for number, part in enumerate(parts):
        storage.write_table(f"{tmp_path}/labeled/part-{number:05d}.parquet", table(part))

    def found() -> dict[str, pa.Table]:
        return {split: storage.read_table(f"{tmp_path}/{split}") for split in ("labeled", "test", "validation")}

    shares = {"test": 0.2, "validation": 0.1}
    counts, notes = carve.write(str(tmp_path), shares, LABELS)
    assert counts == {"labeled": 70, "test": 20, "validation": 10} and notes == {}
    first = found()
    assert {split: len(of_split) for split, of_split in first.items()} == counts
    together = [row for of_split in first.values() for row in of_split["row_id"].to_pylist()]
    assert sorted(together) == sorted(ids)
    assert all(of_split.schema == LABELED for of_split in first.values())
    for record in (record for of_split in first.values() for record in of_split.to_pylist()):
        assert record["answer"] == answers[record["row_id"]] and record["question"] == f"q{record['row_id']}"

    assert carve.write(str(tmp_path), shares, LABELS)[0] == counts  # a task that died after its work
    assert found() == first
    storage.write_table(f"{tmp_path}/labeled/part-00001.parquet", table(parts[1]))  # died between two files
    assert carve.write(str(tmp_path), shares, LABELS)[0] == counts
    assert {split: sorted(t["row_id"].to_pylist()) for split, t in found().items()} == {
        split: sorted(t["row_id"].to_pylist()) for split, t in first.items()
    }


def test_a_file_that_loses_all_its_rows_is_gone(tmp_path: Path) -> None:
    answers = rows(a=10)
    chosen, _ = carve.choose(answers, {"test": 0.5}, LABELS)
    storage.write_table(f"{tmp_path}/labeled/part-00000.parquet", table(dict.fromkeys(chosen["test"], "a")))
    storage.write_table(
        f"{tmp_path}/labeled/part-00001.parquet", table({r: "a" for r in answers if r not in chosen["test"]})
    )
    assert carve.write(str(tmp_path), {"test": 0.5}, LABELS)[0] == {"labeled": 5, "test": 5}
    assert [file.uri for file in storage.find(f"{tmp_path}/labeled")] == [f"{tmp_path}/labeled/part-00001.parquet"]
