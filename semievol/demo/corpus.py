"""Generate the pretraining text of the demo's base model: support-desk prose and multiple-choice tasks.

The prose teaches the words. The tasks teach to read and answer a question ("Answer: B") and to find terms in a ticket.
Neither shows which terms belong together: terms come from all queues, so the base model does not know the demo's task.
"""

from random import Random

from semievol.demo.phrases import CLOSINGS, GREETINGS, TERMS, fill, ticket

Message = dict[str, str]

LETTERS = "ABCDEFGH"
KINDS = {
    "a colour": ("red", "blue", "green", "yellow", "purple", "orange", "black", "white"),
    "an animal": ("dog", "horse", "cow", "sheep", "eagle", "shark", "tiger", "rabbit"),
    "a number": ("one", "three", "seven", "ten", "twelve", "forty", "hundred", "zero"),
    "a country": ("France", "Japan", "Brazil", "Kenya", "Canada", "Norway", "India", "Peru"),
    "a food": ("bread", "rice", "cheese", "apple", "soup", "honey", "pepper", "noodle"),
    "a tool": ("hammer", "saw", "drill", "ladder", "spade", "chisel", "brush", "pliers"),
    "a feeling": ("joy", "anger", "fear", "pride", "envy", "hope", "grief", "calm"),
    "a piece of furniture": ("chair", "table", "sofa", "shelf", "desk", "bed", "stool", "wardrobe"),
}


# The terms sorted by first letter; a drawer is named by the range of its letters.
_RANGES = ("a to b", "c", "d to f", "g to m", "n to r", "s to z")
DRAWERS = {name: [term for term in TERMS if name[0] <= term[0] <= name[-1]] for name in _RANGES}


def prose(rng: Random) -> str:
    """Return two tickets as running text, with terms drawn uniformly."""
    return "\n".join(_ticket(rng, opened=rng.randint(1, 3))[0] for _ in range(2))


def task(rng: Random, *, examples: int, filing: float) -> list[Message]:
    """Return a multiple-choice conversation after solved examples; `filing` is the share of filing tasks."""
    maker = rng.choices((_filing_task, _kind_task, _open_task), (filing, (1 - filing) / 2, (1 - filing) / 2))[0]
    solved = [f"{text}\nAnswer: {answer}" for text, answer in (maker(rng) for _ in range(examples))]
    body, letter = maker(rng)
    messages = [
        {"role": "user", "content": f"{body}\n\nAnswer with the letter of the correct option."},
        {"role": "assistant", "content": f"Answer: {letter}"},
    ]
    if solved:
        messages.insert(0, {"role": "system", "content": "Here are solved examples.\n\n" + "\n\n".join(solved)})
    return messages


def _ticket(rng: Random, *, opened: int) -> tuple[str, list[str], list[str]]:
    terms = rng.sample(TERMS, opened + 1)
    settled = terms[opened:] if rng.random() < 0.5 else []
    return ticket(rng, opened=terms[:opened], settled=settled), terms[:opened], settled


def _kind_task(rng: Random) -> tuple[str, str]:
    kind = rng.choice(list(KINDS))
    others = [word for name, words in KINDS.items() if name != kind for word in words]
    opening = fill(rng, rng.choice(GREETINGS + CLOSINGS))
    return _question(rng, f"{opening}.\nWhich option is {kind}?", right=rng.choice(KINDS[kind]), wrong=others)


def _filing_task(rng: Random) -> tuple[str, str]:
    """Ask for the drawer of a ticket's open matters, by a spelling rule that ignores queues."""
    names = list(DRAWERS)
    right = rng.randrange(len(names))
    opened = rng.sample(DRAWERS[names[right]], rng.randint(1, 3))
    settled = rng.sample([term for term in TERMS if term not in opened], 1) if rng.random() < 0.4 else []
    text = ticket(rng, opened=opened, settled=settled)
    return _listed(f"{text}\nWhich drawer holds the first letter of the open matter?", names), LETTERS[right]


def _open_task(rng: Random) -> tuple[str, str]:
    """Ask for the open matter. A settled one is among the wrong options, so the model must read the verbs."""
    text, opened, settled = _ticket(rng, opened=rng.randint(1, 3))
    absent = [term for term in TERMS if term not in opened + settled]
    ask = f"{text}\nWhich matter of this ticket is still open?"
    return _question(rng, ask, right=rng.choice(opened), wrong=absent, trap=settled)


def _question(rng: Random, ask: str, *, right: str, wrong: list[str], trap: list[str] | None = None) -> tuple[str, str]:
    """Return the text of a question with 4 to 6 options, and the letter of the right one."""
    options = [right, *(trap or [])]
    options += rng.sample(wrong, rng.randint(4, 6) - len(options))
    rng.shuffle(options)
    return _listed(ask, options), LETTERS[options.index(right)]


def _listed(ask: str, options: list[str]) -> str:
    return f"{ask}\n\n" + "\n".join(f"{LETTERS[at]}. {option}" for at, option in enumerate(options))
