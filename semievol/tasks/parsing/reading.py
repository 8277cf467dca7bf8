"""Read responses, for all kinds of task: find the stated answer, convert LaTeX, detect refusals."""

from __future__ import annotations

import re

# The word that models put before an answer, in the languages that benchmarks are translated into most.
ANSWER = r"(?:answer|\bans\b\.?|antwort|respuesta|réponse|risposta|resposta|ответ|答案|答え|정답|الجواب|الإجابة|उत्तर)"
# What may stand between that word and the answer, in these languages.
IS = r"(?:\b(?:(?:would|should|must|will|has to) be|is|ist|est|es|è|é|будет)\b|[:=：]|是|为|は|은|는)"
# "Answer: x" as a line of its own. Nothing inside a one-line answer can look like it.
_LINE = re.compile(
    rf"^[ \t>#*-]*(?:(?:so|thus|hence|therefore),? +)?(?:(?:the|my|final|correct) +)*{ANSWER}(?: +(?:is|ist|est|es|è|é))?[ *]*[:=：]",
    re.IGNORECASE | re.MULTILINE,
)
# "... so the answer is x", "Answer: x", and what GSM8K writes before an answer.
_ANYWHERE = re.compile(rf"{ANSWER}(?: +corr[eé]c?t[aoe])?(?:[ *]*{IS})+|####", re.IGNORECASE)
# <answer>x</answer>, as models say it that were trained by rewards.
_TAGGED = re.compile(r"<((?:final[_ ]?)?answer)>\s*(.*?)\s*(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
# The next question, which a model asks itself that was not stopped.
_NEXT = re.compile(r"\n\s*(?:#{1,4} *|\*\*)?(?:question|problem|q) *\d{0,3} *[:：]", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\W*(?:(?:i'?m |i am )?(?:sorry|unable|not able|not sure|afraid)\b.*"
    r"|(?:as an ai|unfortunately)\b.*"
    r"|i (?:can ?not|can't|could not|couldn't|am not able to|do not have|don't have|won't|will not)"
    r" (?:\w+ )?(?:answer|determine|help|say|tell|provide|find|give|compute|calculate|know|enough|assist|access)\b.*"
    r"|i (?:do not|don't) know\b.*"
    r"|(?:it |this |the answer )?(?:cannot|can't|can not|could not) be (?:determined|answered|computed|calculated)\b.*"
    r"|(?:there is )?not enough (?:information|data|context)\b.*)",
    re.IGNORECASE | re.DOTALL,
)

_SPACING = (
    (re.compile(r"\\([%$#&])"), r"\1"),
    (re.compile(r"\\[!,]|\\(?:left|right|displaystyle|limits)(?![A-Za-z])"), ""),
    (re.compile(r"\\[;: ]|\\q?quad(?![A-Za-z])"), " "),
)
_STYLED = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|tt)|operatorname|mbox)\s*\{([^{}]*)\}")
# \frac{1}{2}, \dfrac12, \tfrac{1}2, \nicefrac{1}{2}; a digit before it makes it the rest of a mixed number.
_PART = r"\s*(\{[^{}]*\}|\d)"
_FRACTION = re.compile(
    rf"(?P<whole>\d)?(?(whole)[\s~]*)\\(?:[cdt]?frac|[ns]\w*frac){_PART.replace('(', '(?P<over>', 1)}"
    rf"{_PART.replace('(', '(?P<under>', 1)}"
)
_BRACES = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # with up to two pairs of braces inside
_BOXED = re.compile(rf"\\f?box(?:ed)?\s*{_BRACES}")


def stated(response: str, *, own_line: bool = False) -> str | None:
    """Return the line (or, after "Answer:" at the end of a line, the next one) in which a response states its answer.

    The last statement counts, as models correct themselves. None if nothing is stated; "" if nothing follows.
    With `own_line` a line "Answer: ..." goes first, so that an answer may itself speak of answers.
    """
    found = (list(_LINE.finditer(response)) if own_line else []) or list(_ANYWHERE.finditer(response))
    return response[found[-1].end() :].lstrip().partition("\n")[0] if found else None


def first_question(response: str) -> str:
    """Return a response up to the next question that a model asks itself, if it has stated an answer before that."""
    for match in _NEXT.finditer(response):
        if _ANYWHERE.search(response, 0, match.start()):
            return response[: match.start()]
    return response


def without_latex(text: str) -> str:
    r"""Return the text with what is around answers made plain: \boxed{x} and <answer>x</answer> become "#### x", \frac{1}{2} 1/2.

    A fraction right behind a digit belongs to a mixed number: 2\frac{1}{2} is 2 1/2, with a no-break space.
    """
    text = _TAGGED.sub(r"\n#### \2\n", text)
    if "\\" not in text and "{,}" not in text:
        return text
    text = text.replace("{,}", ",")
    for pattern, plain in _SPACING:
        text = pattern.sub(plain, text)
    before = None
    while text != before:  # what stands inside goes first
        before = text
        text = _STYLED.sub(r"\1", text)
        text = _FRACTION.sub(_fraction, text)
    return _BOXED.sub(r"#### \1\n", text)


def _fraction(match: re.Match[str]) -> str:
    over, under = (part.strip().strip("{}").strip() for part in match.group("over", "under"))
    if under.startswith("-"):  # the sign of a fraction stands before it
        over, under = over[1:] if over.startswith("-") else f"-{over}", under[1:].lstrip()
    simple = all(re.fullmatch(r"-?[\w.,]+%?", part) for part in (over, under))
    fraction = f"{over}/{under}" if simple else f"({over})/({under})"
    if not match["whole"]:
        return fraction
    return match["whole"] + ("\u00a0" if over.isdigit() else " ") + fraction


def refuses(text: str) -> bool:
    """Tell whether a text refuses to answer."""
    return _REFUSAL.fullmatch(text.strip().replace("’", "'")) is not None
