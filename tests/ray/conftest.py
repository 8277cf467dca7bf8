"""One local cluster for all tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semievol import config
from semievol.config import RunConfig
from semievol.inference.pool import EnginePool, Factory
from semievol.runtime import cluster


@pytest.fixture(scope="package")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    file = tmp_path_factory.mktemp("cluster") / "c.yaml"
    file.write_text("{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}")
    with pytest.MonkeyPatch.context() as environment:
        # Declared only: what reserves GPUs takes other ways through Ray, and computes on the CPU all the same.
        environment.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
        cluster.connect(config.load(str(file), ["resources.local_num_cpus=4"]))
    yield
    ray.shutdown()


@pytest.fixture
def engine_pool(ray_cluster: None) -> Iterator[Callable[[Factory], EnginePool]]:
    """Make pools of engines, which are released after the test."""
    pools: list[EnginePool] = []

    def make(factory: Factory) -> EnginePool:
        pools.append(EnginePool(factory))
        return pools[-1]

    yield make
    for pool in pools:
        pool.release()


@pytest.fixture
def run_config(tmp_path: Path) -> RunConfig:
    """A config whose data lie in tmp_path as labeled.csv, unlabeled/ and test.jsonl."""
    file = tmp_path / "c.yaml"
    file.write_text(
        f"""
        name: run
        storage: {tmp_path}/runs
        model: {{base: {tmp_path}/model}}
        data:
          labeled: {tmp_path}/labeled.csv
          unlabeled: {tmp_path}/unlabeled
          test: {tmp_path}/test.jsonl
          columns: {{oracle: truth}}
        limits: {{max_bad_fraction: 0.9}}
        """
    )
    return config.load(str(file))
