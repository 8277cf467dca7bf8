"""The run that chaos is made in: all of it real but the engine, which follows rules and takes its time.

python -m tests.chaos.driver CONFIG.yaml [LAST STAGE]

`engine.extra.seconds` is the time of a request. With 0 it is the run to compare with, which nobody disturbs: there the
training is fake too, as the engine asks no weights.
"""

import asyncio
import sys

from semievol import config, trainers
from semievol.config import EngineConfig
from semievol.errors import UserError
from semievol.inference.pool import EnginePool
from semievol.reports import summary
from semievol.runs.pipeline import Pipeline
from tests.support.engines import RuleEngine
from tests.support.training import CopyTrainer


class SlowEngine(RuleEngine):
    """So that there is a middle to be killed in."""

    def __init__(self, model: str, config: EngineConfig, chat: object = None) -> None:
        super().__init__(model, config)
        self._seconds: float = config.extra["seconds"]

    async def _heard(self, *asked: object) -> tuple[str, int, str]:
        heard = await super()._heard(*asked)  # type: ignore[arg-type]
        await asyncio.sleep(self._seconds)
        return heard


if __name__ == "__main__":
    try:
        file, *until = sys.argv[1:]
        settings = config.load(file)
        trainer = trainers.load if settings.engine.extra["seconds"] else CopyTrainer
        run = Pipeline(
            settings, lambda line: print(line, flush=True), engines=EnginePool(SlowEngine), load_trainer=trainer
        )
        run.run(summary.write, *until, only_needed=bool(until))
    except UserError as error:
        sys.exit(f"semievol: {error}")
