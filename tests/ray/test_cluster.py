"""What is said of a cluster that is too small; the one of these tests has 4 CPU, and says that it has 2 GPU."""

import re

import pytest

from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.runtime import cluster

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize(
    ("pool", "count", "num_cpus", "num_gpus", "message"),
    [
        (
            "label",
            2,
            2,
            0,
            "resources.label asks for 2 x 2 CPU and 1 more beside them; the cluster has 4: lower resources.",
        ),
        (
            "label",
            3,
            0.5,
            1,
            "resources.label asks for 3 x 1 GPU; the cluster has 2: .*resources.label.actors or .*num_gpus",
        ),
        ("train", 4, 0.5, 1, "resources.train asks for 4 x 1 GPU.*lower resources.train.workers or .*train.num_gpus"),
        ("embed", 1, 40, 0, "resources.embed"),
    ],
)
def test_a_pool_without_room_is_named_with_the_keys_to_change(
    run_config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    pool: str,
    count: int,
    num_cpus: float,
    num_gpus: float,
    message: str,
) -> None:
    asked = getattr(run_config.resources, pool)
    asked.num_cpus, asked.num_gpus = num_cpus, num_gpus
    setattr(asked, "workers" if pool == "train" else "actors", count)
    said: list[str] = []
    with pytest.raises(UserError, match=message):
        cluster.require(run_config, ["embed", "train", "label"], said.append)
    cluster.require(run_config, {"embed", "train", "label"} - {pool}, said.append)
    assert not said
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # not ours: an autoscaler may add nodes
    cluster.require(run_config, ["embed", "train", "label"], said.append)
    assert re.search(message, said[0]) and said[0].endswith("Ray waits for nodes to join")
