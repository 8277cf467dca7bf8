"""kill -9 at random moments on a cluster of three raylets: the same command finishes, and nothing is lost or doubled.

One kill of each kind as part of `make test`; `make chaos` makes at least 20 and prints the table of kills and outcomes.
"""

import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from semievol.data import storage
from tests.support.engines import requests
from tests.support.shared import MODEL, needs_model

FULL = int(os.environ.get("SEMIEVOL_CHAOS_KILLS", "0"))
pytestmark = [needs_model, pytest.mark.timeout(7200 if FULL else 1200)]
ROWS, TEST_ROWS, COLLABORATORS, PER_COMMIT, ACTORS, IN_FLIGHT = 300, 16, 2, 10, 2, 4
# Requests that a kill may have made twice, by the stage that it fell into, with a justification for each row. In flight are two
# blocks that an engine is asked, as engine.max_num_seqs is one block, and as many that are answered and not committed yet.
TWICE = {"label": ACTORS * IN_FLIGHT * PER_COMMIT * (COLLABORATORS + 1), "evaluate": TEST_ROWS}
VICTIMS = {"engine": r"ray::_Host\b", "relay": r"ray::MapWorker\b", "trainer": r"ray::RayTrainWorker\b"}


class Raylets:
    """A head without CPUs to spare, and two nodes that may die."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200 << 20})
        self._nodes = [self._add(), self._add()]
        self.address = self._cluster.address

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=3, object_store_memory=200 << 20)

    def workers(self, name: str) -> list[psutil.Process]:
        """Ray's workers of that name, on any node."""
        found = []
        for node in [self._cluster.head_node, *self._nodes]:
            for raylet in node.all_processes["raylet"]:
                with suppress(psutil.NoSuchProcess):
                    found += psutil.Process(raylet.process.pid).children(recursive=True)
        return [process for process in found if _called(process, name)]

    def kill_one(self, chance: random.Random) -> None:
        place = chance.randrange(len(self._nodes))
        (raylet,) = self._nodes[place].all_processes["raylet"]
        raylet.process.kill()
        self._cluster.remove_node(self._nodes[place], allow_graceful=False)
        self._nodes[place] = self._add()  # as an autoscaler would

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    cluster = Raylets()
    yield cluster
    cluster.shutdown()


@dataclass
class Run:
    """A run folder, the command that makes it, and what happened on the way."""

    folder: Path
    address: str
    starts: int = 0
    kills: list[tuple[str, str, int]] = field(default_factory=list)  # victim, stage, attempt
    _driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        environment = os.environ | {"RAY_ADDRESS": self.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120"}
        log = (self.folder / "driver.log").open("a")
        command = [sys.executable, "-m", "tests.chaos.driver", f"{self.folder}/c.yaml", *([] if FULL else ["select"])]
        self._driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def state(self) -> int | None:
        assert self._driver is not None
        return self._driver.poll()

    def kill(self, victim: str, raylets: Raylets, chance: random.Random) -> bool:
        """Whether there was one to kill."""
        stage = self.stage()
        assert self._driver is not None
        if victim == "driver":
            self._driver.kill()
            self._driver.wait()
        elif victim == "raylet":
            raylets.kill_one(chance)
        else:
            found = raylets.workers(VICTIMS[victim])
            if not found:
                return False
            with suppress(psutil.NoSuchProcess):
                chance.choice(found).kill()
        self.kills.append((victim, stage, self.starts))
        return True

    def stage(self) -> str:
        status = self.folder / "runs" / "run" / "status.json"
        return str(json.loads(status.read_text())["stage"]) if status.exists() else "the beginning"

    def log(self) -> str:
        return (self.folder / "driver.log").read_text()


def _called(process: psutil.Process, name: str) -> bool:
    try:
        return re.match(name, " ".join(process.cmdline())) is not None
    except psutil.Error:
        return False


def prepare(folder: Path, address: str, seconds: float = 1) -> Run:
    folder.mkdir()
    options = ["x", "y", "z"]
    for split, start, count in (("labeled", 1000, 16), ("test", 2000, TEST_ROWS), ("unlabeled", 0, ROWS)):
        rows = [
            {"question": f"say={'ABC'[i % 3]} row={i}" + " split" * (i % 7 == 0), "options": options}
            | ({"answer": "ABC"[i % 3]} if split != "unlabeled" else {})
            for i in range(start, start + count)
        ]
        for row in rows[5:200:50] if split == "unlabeled" else []:
            row["question"] += " mumble"  # no answer: quarantined
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "c.yaml").write_text(
        f"""
        name: run
        storage: {folder}/runs
        model: {{base: {MODEL}}}
        data: {{labeled: {folder}/labeled.jsonl, unlabeled: {folder}/unlabeled.jsonl, test: {folder}/test.jsonl}}
        warmup: {{epochs: 1}}
        finetune: {{epochs: 0.2}}
        retrieve: {{by: bm25}}
        label:
          rows_per_commit: {PER_COMMIT}
          collaborators: [{{name: a, k: 0}}, {{name: b, k: 0, prompt: careful}}]
        engine: {{max_num_seqs: {PER_COMMIT}, extra: {{log: {folder}/requests, seconds: {seconds}}}}}
        resources: {{label: {{actors: {ACTORS}}}}}
        """
    )
    return Run(folder, address)


def finished(run: Run, raylets: Raylets, kills: list[str], chance: random.Random, deadline_s: float = 1100) -> None:
    """Start the command until it has finished, with these kills on the way, one at a random moment of each stage."""
    pending, seen = list(kills), list[str]()
    strike, deadline = math.inf, time.monotonic() + deadline_s
    run.start()
    while (code := run.state()) != 0:
        assert time.monotonic() < deadline, run.log()[-3000:]
        if code is not None:
            run.start()
        if (stage := run.stage()) not in seen:
            seen.append(stage)
            # Some stages end within seconds; labeling takes half a minute, and asks its engines from its tenth second on.
            longest = chance.choice([0.5, 2, 8, 20] if FULL else [0.5, 2])
            strike = time.monotonic() + chance.uniform(0, (25 if FULL else 10) if stage == "label" else longest)
        if pending and time.monotonic() > strike:
            victim = next((v for v in chance.sample(pending, len(pending)) if run.kill(v, raylets, chance)), None)
            if victim:
                pending.remove(victim)
                strike = math.inf
        time.sleep(0.2)


def outcome(run: Run) -> dict[str, pa.Table]:
    at = run.folder / "runs" / "run" / "round-0"
    tables = {stage: storage.read_table(f"{at}/{stage}/rows").sort_by("row_id") for stage in ("label", "select")}
    if FULL:
        tables["finetune"] = storage.read_table(f"{at}/finetune/rows", ["row_id", "completion"]).sort_by("row_id")
    return tables


def check(run: Run, undisturbed: Run) -> int:
    """The same rows, pseudo-labels and quarantine; returns the requests that were made twice."""
    found, expected = outcome(run), outcome(undisturbed)
    for stage, table in expected.items():
        assert table.equals(found[stage]), f"{stage} differs after {run.kills}"
    asked, once = (Counter(requests(f"{one.folder}/requests")) for one in (run, undisturbed))
    twice = sum((asked - once).values())
    allowed = sum(TWICE.get(stage.split("/")[0], 0) for _, stage, _ in run.kills)
    assert twice <= allowed, f"{twice} requests were made twice, of {sum(once.values())}"
    assert not once - asked
    return twice


@pytest.fixture(scope="module")
def undisturbed(raylets: Raylets, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = prepare(tmp_path_factory.mktemp("undisturbed") / "run", raylets.address, seconds=0)
    finished(run, raylets, [], random.Random(0))
    assert run.starts == 1
    table = outcome(run)["label"]
    assert table.num_rows == ROWS and table["quarantine_reason"].null_count == ROWS - 4
    return run


@pytest.mark.skipif(bool(FULL), reason="the full form does more")
def test_one_kill_of_each_kind(raylets: Raylets, undisturbed: Run, tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", raylets.address)
    finished(run, raylets, ["trainer", "engine", "raylet", "driver"], random.Random(1))
    twice = check(run, undisturbed)
    print(f"kills {run.kills}, {run.starts} starts, {twice} requests made twice")
    assert len(run.kills) >= 3  # a run may end before the last one
    # Nothing but the loss of the driver ends a run: what else dies is replaced by the run itself.
    assert run.starts == 1 + sum(victim == "driver" for victim, *_ in run.kills), run.log()[-3000:]


@pytest.mark.skipif(not FULL, reason="make chaos")
def test_many_kills(raylets: Raylets, undisturbed: Run, tmp_path: Path) -> None:
    chance, killed = random.Random(), 0
    lines = ["| run | kills (victim in stage) | starts | requests twice |", "|---|---|---|---|"]
    while killed < FULL:
        run = prepare(tmp_path / f"run-{killed}", raylets.address)
        # Drivers and raylets can be killed in any stage, and shall be left for the later ones.
        kills = ["driver", "raylet"] * 5 + ["engine", "relay", "trainer"] * 2
        finished(run, raylets, kills, chance, deadline_s=2400)
        twice = check(run, undisturbed)
        killed += len(run.kills)
        told = ", ".join(f"{victim} {f'in {stage}' if stage else 'at the end'}" for victim, stage, _ in run.kills)
        lines.append(
            f"| {len(lines) - 1} | {told} | {run.starts} | {twice} of {len(requests(f'{run.folder}/requests'))} |"
        )
        print("\n".join(lines), flush=True)
