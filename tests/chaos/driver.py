"""The run that chaos is made in: all of it real but the engine, which follows rules and takes its time.

python -m tests.chaos.driver CONFIG.yaml [LAST STAGE]
"""

import asyncio
import sys
from functools import partial

from semievol import config
from semievol.errors import UserError
from semievol.runs import runner
from semievol.runs.pipeline import Pipeline
from semievol.stages.base import StageContext
from tests.support.engines import RuleEngine

SECONDS_PER_REQUEST = 1.0


class SlowEngine(RuleEngine):
    """So that there is a middle to be killed in."""

    async def _heard(self, *asked: object) -> tuple[str, int, str]:
        heard = await super()._heard(*asked)  # type: ignore[arg-type]
        await asyncio.sleep(SECONDS_PER_REQUEST)
        return heard


if __name__ == "__main__":
    runner.StageContext = partial(StageContext, engine=SlowEngine)  # type: ignore[misc,assignment]
    try:
        file, *until = sys.argv[1:]
        Pipeline(config.load(file), lambda line: print(line, flush=True)).run(*until, only_needed=bool(until))
    except UserError as error:
        sys.exit(f"semievol: {error}")
