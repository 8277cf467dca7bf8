"""What can be served, from what should be."""

from semievol.serving.keeper import Lineup, line_up

APPS = {"base": "s-base", "round-0": "s-0", "round-1": "s-1"}


def up(*names: str) -> dict[str, str]:
    return {APPS[name]: "RUNNING" for name in names}


def test_the_alias_moves_when_the_promoted_round_is_ready() -> None:
    first = line_up({"base": "s-base", "round-0": "s-0"}, "round-0", up("base"), Lineup())
    assert first.apps == {"base": "s-base"} and first.evolved is None
    ready = line_up({"base": "s-base", "round-0": "s-0"}, "round-0", up("base", "round-0"), first)
    assert ready.evolved == "round-0" and set(ready.apps) == {"base", "round-0"}
    loading = line_up(APPS, "round-1", up("base", "round-0") | {"s-1": "DEPLOYING"}, ready)
    assert loading.evolved == "round-0" and "round-1" not in loading.apps
    failed = line_up(APPS, "round-1", up("base", "round-0") | {"s-1": "DEPLOY_FAILED"}, loading)
    assert failed.evolved == "round-0"
    moved = line_up(APPS, "round-1", up("base", "round-0", "round-1"), loading)
    assert moved.evolved == "round-1"


def test_what_answers_goes_on_while_serve_recovers() -> None:
    before = Lineup({"base": "s-base", "round-0": "s-0"}, "round-0")
    recovering = line_up(
        {"base": "s-base", "round-0": "s-0"}, "round-0", dict.fromkeys(APPS.values(), "DEPLOYING"), before
    )
    assert recovering.apps == before.apps and recovering.evolved == "round-0"
    gone = line_up({"base": "s-base", "round-0": "s-0"}, "round-0", up("base"), before)
    assert gone.apps == {"base": "s-base"} and gone.evolved is None


def test_a_new_keeper_finds_the_round_that_served_before() -> None:
    """In the middle of a promotion, with nothing remembered."""
    found = line_up(APPS, "round-1", up("base", "round-0") | {"s-1": "DEPLOYING"}, Lineup())
    assert found.evolved == "round-0" and "round-0" in found.apps


def test_a_round_taken_back_serves_until_the_older_one_is_there_again() -> None:
    before = Lineup({"round-1": "s-1"}, "round-1")
    back = line_up({"round-0": "s-0"}, "round-0", up("round-1") | {"s-0": "DEPLOYING"}, before)
    assert back.evolved == "round-1" and back.apps == {"round-1": "s-1"}
