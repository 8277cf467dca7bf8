"""Which rounds there are and what their steps read: from records, listings and results, without a file or a cluster."""

from dataclasses import replace

import pytest

from semievol.config import Collaborator, RunConfig
from semievol.config.training import WarmupConfig
from semievol.data.storage import FileEntry
from semievol.errors import UserError
from semievol.runs import rounds
from semievol.runs.folder import Record
from semievol.runs.rounds import Round
from semievol.stages import registry
from semievol.stages.base import Key, Scope
from tests.support.configs import run_config

A, B, C = (FileEntry(f"/u/{name}", 10, 1) for name in "abc")


def inputs(these: list[Round], config: RunConfig | None = None) -> dict[Key, dict[str, Key]]:
    return {step.key: step.inputs for step in rounds.steps(these, config or run_config())}


def test_a_later_round_starts_from_the_evolved_model_of_the_one_before() -> None:
    these = [Round(0, (A,)), Round(1), Round(2, (B,)), Round(3)]
    found = inputs(these)
    steps = [[stage for stage, number in found if number == n] for n in range(4)]
    wanted = [stage for stage in registry() if stage.wanted(run_config())]  # without validation rows, and evaluate.k: 0
    assert steps[0] == [stage.name for stage in wanted]
    assert {stage.name for stage in registry() if stage not in wanted} == {
        *("evaluate/retrieve", "validate/retrieve", "validate/base", "validate/warm", "validate/evolved"),
        *("control", "evaluate/control", "combine"),
    }
    later = [stage.name for stage in wanted if stage.scope is Scope.ROUND]
    assert steps[1] == steps[3] == later
    assert {"label", "select", "finetune", "evaluate/evolved", "evaluate/compare"} <= set(later)
    assert steps[2] == [stage.name for stage in wanted if stage.scope is not Scope.ONCE]
    assert set(steps[2]) == {"ingest", "retrieve", *later}
    assert found["label", 0]["warmup"] == ("warmup", 0)
    assert found["label", 1] == {"ingest": ("ingest", 0), "warmup": ("finetune", 0), "retrieve": ("retrieve", 0)}
    assert found["label", 3] == {"ingest": ("ingest", 0), "warmup": ("finetune", 2), "retrieve": ("retrieve", 2)}
    assert found["finetune", 2] == {"ingest": ("ingest", 0), "warmup": ("finetune", 1), "select": ("select", 2)}
    assert found["ingest", 0] == {} and found["ingest", 2] == {"round-0": ("ingest", 0)}
    assert found["retrieve", 2] == {"ingest": ("ingest", 2), "index": ("index", 0)}
    assert found["evaluate/evolved", 3] == {"ingest": ("ingest", 0), "finetune": ("finetune", 3)}
    compared = found["evaluate/compare", 3]
    assert compared["ingest"] == ("ingest", 2)  # for the oracle of the rows that were selected from
    assert compared["evaluate/base"] == ("evaluate/base", 0) and compared["evaluate/warm"] == ("evaluate/warm", 0)
    assert compared["evaluate/previous"] == ("evaluate/evolved", 2)
    assert "evaluate/previous" not in found["evaluate/compare", 0]
    before: set[Key] = set()
    for key, read in found.items():
        assert set(read.values()) <= before
        before.add(key)


def test_with_a_committee_selection_reads_the_verdicts_of_the_weighted_voters() -> None:
    these = [Round(0, (A,)), Round(1)]
    alone, several = (inputs(these, run_config(warmup=WarmupConfig(members=m))) for m in (1, 3))
    assert alone["select", 0] == {"label": ("label", 0)} and ("combine", 0) not in alone
    assert several["select", 0] == {"label": ("combine", 0)}
    # The model of a later round has seen all labeled rows: the voters have the weights of the first one.
    assert several["combine", 1] == {"ingest": ("ingest", 0), "label": ("label", 1), "crossfit": ("label", 0)}
    assert several["select", 1] == {"label": ("combine", 1)}


def test_validation_rows_are_answered_by_the_models_that_a_run_decides_about() -> None:
    config = run_config()
    config.data.validation, config.evaluate.k = 0.1, 2
    found = inputs([Round(0, (A,)), Round(1)], config)
    assert found["validate/retrieve", 0] == {"ingest": ("ingest", 0), "index": ("index", 0)}
    assert found["validate/base", 0] == {"ingest": ("ingest", 0), "validate/retrieve": ("validate/retrieve", 0)}
    assert found["validate/evolved", 1]["finetune"] == ("finetune", 1)
    assert found["validate/warm", 0]["warmup"] == ("warmup", 0)
    assert ("validate/base", 1) not in found and ("validate/warm", 1) not in found
    compared = found["evaluate/compare", 1]
    assert compared["validate/warm"] == ("validate/warm", 0)
    assert compared["validate/previous"] == ("validate/evolved", 0)
    assert compared["validate/evolved"] == ("validate/evolved", 1)
    order = list(found)
    assert order.index(("validate/base", 0)) == order.index(("evaluate/base", 0)) + 1  # with the same engine
    assert order.index(("validate/warm", 0)) == order.index(("evaluate/warm", 0)) + 1
    assert order.index(("validate/evolved", 1)) == order.index(("evaluate/evolved", 1)) + 1


def test_a_control_is_trained_and_evaluated_in_each_round_from_the_control_before() -> None:
    config = run_config(evaluate={"control": True})
    found = inputs([Round(0, (A,)), Round(1)], config)
    assert found["control", 0] == {"ingest": ("ingest", 0), "warmup": ("warmup", 0), "finetune": ("finetune", 0)}
    assert found["control", 1] == {"ingest": ("ingest", 0), "warmup": ("control", 0), "finetune": ("finetune", 1)}
    for number in (0, 1):
        assert found["evaluate/control", number] == {"ingest": ("ingest", 0), "control": ("control", number)}
        assert found["evaluate/compare", number]["evaluate/control"] == ("evaluate/control", number)
    without = inputs([Round(0, (A,)), Round(1)])
    assert {key: read for key, read in found.items() if key in without and key[0] != "evaluate/compare"} == {
        key: read for key, read in without.items() if key[0] != "evaluate/compare"
    }


def test_a_collaborator_with_the_weights_of_a_round_takes_part_after_it() -> None:
    config = run_config()
    far = Collaborator(name="far", model="round-9", endpoint="http://host/v1")  # a model's name there
    config.label.collaborators = [Collaborator(name="warm"), Collaborator(name="first", model="round-0"), far]
    config.finetune.start_from = "base"
    found = inputs([Round(0, (A,)), Round(1), Round(2)], config)
    assert "round-0" not in found["label", 0]
    assert found["label", 1]["round-0"] == found["label", 2]["round-0"] == ("finetune", 0)
    first, second = rounds.of_round(config, 0), rounds.of_round(config, 1)
    assert [who.name for who in first.label.collaborators] == ["warm", "far"]
    assert [who.name for who in second.label.collaborators] == ["warm", "first", "far"]
    assert (first.finetune.start_from, second.finetune.start_from) == ("base", "warm")


def test_until_ends_a_round_at_a_stage() -> None:
    steps = rounds.steps([Round(0, (A,)), Round(1, (B,))], run_config())
    second = [step for step in steps if step.round.number == 1]
    assert [step.stage.name for step in rounds.until(second, "label")] == ["ingest", "retrieve", "label"]
    assert [step.stage.name for step in rounds.until(second, "warmup")] == ["ingest"]
    assert rounds.until(second, None) == second
    with pytest.raises(UserError, match="no stage 'lable'; the stages are ingest, index"):
        rounds.check_until("lable")


@pytest.mark.parametrize(
    ("records", "listing", "files"),
    [
        ({}, [A, B], [(A, B)]),
        ({0: Record((A,))}, [A, B], [(A,)]),  # begun: what arrives waits
        ({0: Record((A,))}, [replace(A, size=11), B], [(replace(A, size=11), B)]),  # begun, and changed: starts over
        ({0: Record((A, B))}, [B], [(B,)]),
        ({0: Record((A,))}, [], [(A,)]),  # nothing to start over with
        ({0: Record((A,), finished=True)}, [], [(A,)]),  # frozen
        ({0: Record((A,), finished=True)}, [replace(A, sha256="other")], [(A,)]),
        ({0: Record((A,), finished=True), 2: Record((B,))}, [B], [(A,), (), (B,)]),
        ({0: Record((A,), finished=True), 1: Record((B,))}, [A, C], [(A,), (C,)]),
    ],
)
def test_rounds_that_were_begun(records: dict[int, Record], listing: list[FileEntry], files: list[tuple]) -> None:
    assert rounds.settled(records, listing) == [Round(number, own) for number, own in enumerate(files)]


def test_files_that_are_not_recorded_with_equal_content_are_new() -> None:
    begun = [Round(0, (A,)), Round(1), Round(2, (B,))]
    assert rounds.new_files(begun, [A, B]) == rounds.new_files(begun, []) == ()
    assert rounds.new_files(begun, [replace(A, mtime_ns=2), B]) == ()
    assert rounds.new_files(begun, [replace(A, sha256="other"), B, C]) == (replace(A, sha256="other"), C)


def walk(config: RunConfig, begun: list[Round], gained: dict[int, bool], arrived: tuple = ()) -> list[Round]:
    """All rounds that there will be, as far as the results say."""
    these = list(begun)
    while following := rounds.following(these, config, gained.get(these[-1].number), arrived):
        these.append(following)
        arrived = () if following.files else arrived
    return these


def test_what_follows() -> None:
    first = [Round(0, (A,))]
    one, three = run_config(), run_config(rounds=3)
    stubborn = run_config(rounds=3, stop_early=False)
    good = dict.fromkeys(range(9), True)
    assert walk(one, first, good) == first
    assert walk(three, first, {}) == [*first, Round(1), Round(2)]  # as planned before anything has run
    assert walk(three, first, {0: True, 1: False}) == [*first, Round(1)]
    assert walk(stubborn, first, {0: True, 1: False}) == [*first, Round(1), Round(2)]
    # New files wait for the end of the round, or of the rounds over the same rows.
    assert walk(one, first, {}, (B,)) == first
    assert walk(one, first, good, (B,)) == [*first, Round(1, (B,))]
    assert walk(three, first, good, (B,)) == [*first, Round(1), Round(2), Round(3, (B,)), Round(4), Round(5)]
    assert walk(three, first, {0: True, 1: False}, (B,)) == [*first, Round(1), Round(2, (B,)), Round(3), Round(4)]
    assert walk(three, first, {0: True, 1: True}, (B,)) == [*first, Round(1), Round(2)]
    # Once files of its own are recorded for a round, the earlier ones stay as they are.
    assert walk(one, [*first, Round(1), Round(2, (B,))], good) == [*first, Round(1), Round(2, (B,))]
