"""A small data set of chats of three turns, of which the last one needs what the first one said."""

import json
from pathlib import Path
from random import Random
from typing import Any

_WORDS = ("apple", "bread", "cheese", "honey", "lemon", "melon", "onion", "pepper", "rice", "sugar", "tea", "walnut")
_SYSTEM = "You keep a shopping list. Answer with the word alone."
_ASKS = {"What is the first thing?": 0, "What is the second thing?": 1}


def chats(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Return rows with `messages`: a system message, three turns (user, assistant, user), and the answer, one word."""
    rng = Random(seed)
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    while len(made) < count:
        things, ask = rng.sample(_WORDS, 2), rng.choice(list(_ASKS))
        turns = [
            ("system", _SYSTEM),
            ("user", f"Note down {things[0]} and {things[1]}."),
            ("assistant", "Noted."),
            ("user", ask),
            ("assistant", things[_ASKS[ask]]),
        ]
        made[*things, ask] = {"messages": [{"role": role, "content": content} for role, content in turns]}
    return list(made.values())


def write_chats(folder: Path, *, labeled: int = 24, unlabeled: int = 24, test: int = 8, seed: int = 0) -> None:
    """Write labeled.jsonl, unlabeled.jsonl and test.jsonl, all of different chats.

    Unlabeled chats end with the user's turn, and have the answer in the column `truth` (`data.columns.oracle`).
    """
    rows = chats(labeled + unlabeled + test, seed=seed)
    splits = {"labeled": rows[:labeled], "unlabeled": rows[labeled : labeled + unlabeled], "test": rows[-test:]}
    splits["unlabeled"] = [
        {"messages": row["messages"][:-1], "truth": row["messages"][-1]["content"]} for row in splits["unlabeled"]
    ]
    for split, given in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
