"""An engine that answers at once, by rules a test can read off the question. The real one runs in tests/e2e."""

import asyncio
import json
import os
import re
import time
from pathlib import Path

from semievol.config import EngineConfig
from semievol.engines import Completion, EngineDied, PromptTooLong, RequestRefused
from semievol.method.prompts import Messages

WINDOW = 2000  # "tokens" are characters here


class RuleEngine:
    """Answers with the letter in `say=X`; `split` makes samples differ, `mumble` cannot be parsed.

    `die` kills it once, `poison` each time, `hang` hangs it. `engine.extra.log` names a file to which each request adds a
    line, so that a test can count them, and each start one to a file beside it; with `engine.extra.broken` all it does is die, with `engine.extra.stuck` the first so many
    starts are all that there are.
    """

    def __init__(self, model: str, config: EngineConfig, chat: object = None) -> None:
        self._log = Path(config.extra["log"])
        self._broken = bool(config.extra.get("broken"))
        with self._log.with_suffix(".starts").open("a") as starts:
            starts.write(f"{model}\n")
        if len(self._log.with_suffix(".starts").read_text().split()) > config.extra.get("stuck", 1000):
            time.sleep(600)
        self.figures: dict[str, float] = {}

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        letter, number, text = await self._heard(messages, max_tokens)
        if "mumble" in text:
            return [Completion("no idea", 1.0, 1.5, 2)] * n
        said = ["ABC"[(seed + i) % 3] if "split" in text and temperature > 0 else letter for i in range(n)]
        return [Completion(f"Answer: {one}", (number % 100) / 100, 0.5, 3) for one in said]

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        letter, number, _ = await self._heard(messages, 1)
        share = 1 - (number % 100) / 200
        others = (1 - share) / (len(responses) - 1)
        return [share if response == f"Answer: {letter}" else others for response in responses]

    async def likelihood(self, messages: Messages, response: str) -> float:
        letter, *_ = await self._heard(messages, 1)
        return -0.5 if letter in response else -2.0

    def close(self) -> None:
        pass

    async def _heard(self, messages: Messages, max_tokens: int) -> tuple[str, int, str]:
        text = "".join(message["content"] for message in messages)
        if self._broken:
            raise EngineDied("as always")
        if len(text) + max_tokens > WINDOW:
            raise PromptTooLong(f"prompt of {len(text)} tokens")
        # The question comes last; solved examples before it say things of their own.
        said = re.findall(r"say=([A-C]) row=(\d+)", text)
        if not said:
            raise RequestRefused("nothing to say")
        letter, number = said[-1]
        with self._log.open("a") as log:
            log.write(f"{number}\n")
        await asyncio.sleep(0.001)
        if "hang" in text:
            time.sleep(600)  # the event loop too
        if "poison" in text:
            raise EngineDied("as always")
        marker = self._log.with_suffix(".died")
        if "die" in text and not marker.exists():
            marker.touch()
            raise EngineDied("as the test asked")
        return letter, int(number), text


class CopyEngine:
    """Repeats the answer of the solved example that stands last, next to the question; says nothing without one."""

    def __init__(self, model: str, config: EngineConfig, chat: object = None) -> None:
        self.figures: dict[str, float] = {}

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        solved = [found for m in messages[:-1] for found in re.findall(r"Answer: [A-C]", m["content"])]
        return [Completion(solved[-1] if solved else "no idea", 0.1, 0.1, 2)] * n

    def close(self) -> None:
        pass


class LabelEngine:
    """Scores labels: 0.9 for the one that the question names in brackets, and equal shares of the rest for the others.

    It refuses a prompt that does not list what `engine.extra.lists` says.
    """

    def __init__(self, model: str, config: EngineConfig, chat: object = None) -> None:
        self.figures: dict[str, float] = {}
        self._lists: list[str] = config.extra.get("lists", [])

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        question = messages[-1]["content"]
        if not all(f"- {label}" in question for label in self._lists):
            raise RequestRefused(f"not listed: {question}")
        wanted = [response for response in responses if f"[{response}]" in question]
        rest = 0.1 / (len(responses) - 1) if wanted else 1 / len(responses)
        return [0.9 if response in wanted else rest for response in responses]

    def close(self) -> None:
        pass


class WitnessEngine:
    """Scores the letter in `say=X` highest, and adds a line of JSON about each request to `engine.extra.log`."""

    def __init__(self, model: str, config: EngineConfig, chat: object = None) -> None:
        self.figures: dict[str, float] = {}
        self._log, self._folder = Path(config.extra["log"]), Path(model).parent.name
        self._note({"start": self._folder})

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        *shown, asked = re.findall(r"say=([A-C]) row=(\d+)", "".join(message["content"] for message in messages))
        examples = [int(number) for _, number in shown]
        system = messages[0]["content"] if len(messages) > 1 else ""
        self._note({"model": self._folder, "row": int(asked[1]), "examples": examples, "system": system})
        return [0.8 if response == f"Answer: {asked[0]}" else 0.1 for response in responses]

    def close(self) -> None:
        pass

    def _note(self, line: dict[str, object]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def requests(log: str) -> list[int]:
    return [int(line) for line in Path(log).read_text().split()] if os.path.exists(log) else []
