"""The run that chaos is made in: all of it real but the engine, which follows rules and takes its time.

python -m tests.chaos.driver CONFIG.yaml [LAST STAGE]
"""

import asyncio
import sys

from semievol import config
from semievol.errors import UserError
from semievol.inference.pool import EnginePool
from semievol.runs.pipeline import Pipeline
from tests.support.engines import RuleEngine

SECONDS_PER_REQUEST = 1.0


class SlowEngine(RuleEngine):
    """So that there is a middle to be killed in."""

    async def _heard(self, *asked: object) -> tuple[str, int, str]:
        heard = await super()._heard(*asked)  # type: ignore[arg-type]
        await asyncio.sleep(SECONDS_PER_REQUEST)
        return heard


if __name__ == "__main__":
    try:
        file, *until = sys.argv[1:]
        pipeline = Pipeline(config.load(file), lambda line: print(line, flush=True), engines=EnginePool(SlowEngine))
        pipeline.run(*until, only_needed=bool(until))
    except UserError as error:
        sys.exit(f"semievol: {error}")
