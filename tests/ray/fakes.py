"""An engine that answers at once, by rules a test can read off the question. The real one runs in tests/e2e."""

import asyncio
import os
import re
from pathlib import Path

from semievol.config import EngineConfig
from semievol.engines import Completion, EngineDied, PromptTooLong
from semievol.prompts import Messages

WINDOW = 2000  # "tokens" are characters here


class RuleEngine:
    """Answers with the letter in `say=X`; `split` makes samples differ, `mumble` cannot be parsed, `die` kills once.

    `engine.extra.log` names a file to which each request adds a line, so that a test can count them.
    """

    def __init__(self, model: str, config: EngineConfig) -> None:
        self._log = Path(config.extra["log"])

    def tokenize(self, messages: Messages) -> list[int]:
        return [ord(c) for message in messages for c in message["content"]]

    async def generate(self, prompt: list[int], *, temperature: float, seed: int, max_tokens: int) -> Completion:
        if len(prompt) + max_tokens > WINDOW:
            raise PromptTooLong(f"prompt of {len(prompt)} tokens")
        text = "".join(map(chr, prompt))
        # The question comes last; solved examples before it say things of their own.
        letter, number = re.findall(r"say=([A-C]) row=(\d+)", text)[-1]
        with self._log.open("a") as log:
            log.write(f"{number}\n")
        await asyncio.sleep(0.001)
        marker = self._log.with_suffix(".died")
        if "die" in text and not marker.exists():
            marker.touch()
            raise EngineDied("as the test asked")
        if "mumble" in text:
            return Completion("no idea", 1.0, 2)
        if "split" in text and temperature > 0:
            letter = "ABC"[seed % 3]
        return Completion(f"Answer: {letter}", (int(number) % 100) / 100, 3)


def requests(log: str) -> list[int]:
    return [int(line) for line in Path(log).read_text().split()] if os.path.exists(log) else []
