"""One driver at a time on a run, with the times made short."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semievol.errors import UserError
from semievol.runs import lease


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_BEAT_S", 0.05)
    monkeypatch.setattr(lease, "_DEAD_AFTER_S", 0.5)


def write(run: Path, owner: str, beat: int = 0) -> None:
    run.mkdir(exist_ok=True)
    (run / "new").write_text(json.dumps({"owner": owner, "beat": beat, "host": "there", "pid": 7}))
    (run / "new").replace(run / lease.FILE)  # whole, wherever the test is interrupted


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_living_driver_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with lease.held(str(tmp_path), said.append) as owner:
        assert json.loads((tmp_path / lease.FILE).read_text())["owner"] == owner
        with pytest.raises(UserError, match="is at work on this run"), lease.held(str(tmp_path), said.append):
            pass
        assert json.loads((tmp_path / lease.FILE).read_text())["owner"] == owner
        assert "waiting" in said[0]
    assert not (tmp_path / lease.FILE).exists()
    with lease.held(str(tmp_path), said.append):  # signed off, so nobody waits
        assert len(said) == 1


def test_a_killed_driver_keeps_nobody_out(tmp_path: Path) -> None:
    write(tmp_path, "killed")
    said: list[str] = []
    with lease.held(str(tmp_path), said.append):
        assert "the driver on there (process 7)" in said[0]
        until(lambda: json.loads((tmp_path / lease.FILE).read_text())["beat"] > 1)


@pytest.fixture
def in_background() -> Iterator[None]:
    """As a shell starts what ends in `&`: Ctrl-C means nothing to it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_background")
def test_who_finds_anothers_name_gives_way(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has taken over this run"), lease.held(str(tmp_path), print):
        for _ in range(1200):  # again and again, as a beat of ours may just be under way
            write(tmp_path, "other")
            time.sleep(0.05)
    assert json.loads((tmp_path / lease.FILE).read_text())["owner"] == "other"


def test_the_lease_around_another_is_the_one_that_is_lost(tmp_path: Path) -> None:
    study, run = tmp_path / "study", tmp_path / "run"
    with (
        pytest.raises(UserError, match=r"study: .* has taken over this run"),
        lease.held(str(study), print),
        lease.held(str(run), print),
    ):
        for _ in range(1200):
            write(study, "other")
            time.sleep(0.05)
    assert not (run / lease.FILE).exists()


def test_a_store_that_is_away_for_a_moment_does_not_end_the_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(uri: str, text: str) -> None:
        failed.append(uri)
        raise UserError("the store cannot be reached")

    failed: list[str] = []
    with lease.held(str(tmp_path), print):
        with monkeypatch.context() as patch:
            patch.setattr("semievol.data.storage.write_text", away)
            until(lambda: len(failed) > 1)
        at = json.loads((tmp_path / lease.FILE).read_text())["beat"]
        until(lambda: json.loads((tmp_path / lease.FILE).read_text())["beat"] > at)


def test_an_interruption_is_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lease.held(str(tmp_path), print):
        raise KeyboardInterrupt
    assert not (tmp_path / lease.FILE).exists()
