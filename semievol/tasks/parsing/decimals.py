"""Convert numbers as people write them to decimal strings.

English notation: a point before decimals, commas (or ', or narrow blanks) between groups of three digits. What can only
be another notation is read as that: 12,5 and 1.234,56 (decimal comma), 12,34,567 (lakhs).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Context, Decimal

# Nothing raises: an overflow or a text that is not a number becomes infinity or NaN, and `canonical` says None.
ARITHMETIC = Context(prec=28, traps=[])

_PLAIN = str.maketrans(
    dict.fromkeys("−‒–—﹣－", "-") | {"٫": ".", "٬": ",", "％": "%", "٪": "%", "⁄": "/", "＋": "+", "×": "x", "’": "'"}
)
# "2½", "2³⁄₄", "2 and a half": the fraction of a mixed number follows a no-break space.
_VULGAR = re.compile(r"(?P<whole>\d)?(?(whole)[ \u00a0\u2009\u202f]?)(?P<part>[¼-¾⅐-⅞↉]|[⁰¹²³⁴-⁹]+[⁄/][₀-₉]+)")
_SHARES = {"half": "1/2", "third": "1/3", "quarter": "1/4", "two thirds": "2/3", "three quarters": "3/4"}
_IN_WORDS = re.compile(
    r"(?<=\d) and (?:(?:an? |one[ -])(half|third|quarter)|(two thirds|three quarters))\b", re.IGNORECASE
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SCALES = {
    **{"hundred": 2, "thousand": 3, "k": 3, "万": 4, "lakh": 5, "million": 6, "mn": 6, "mln": 6, "mio": 6, "m": 6},
    **{"crore": 7, "亿": 8, "億": 8, "billion": 9, "bn": 9, "mrd": 9, "b": 9, "trillion": 12, "tn": 12, "t": 12},
}
_CURRENCY = r"(?:US\$|[$€£¥₹₩]|(?:USD|EUR|GBP|JPY|CHF|CNY|INR|Rs)\b\.?|(?:USD|EUR|GBP|Rs\.?)(?=\d))"
_SUFFIX = r"""
    (?:\s*(?P<percent{0}>%|(?:percent(?:age\ points?)?|per\ cent|pct|pp)\b)
      |\s*(?P<basis{0}>(?:bps|basis\ points?)\b)
      |[\s-]*(?P<word{0}>(?i:hundred|thousand|million|billion|trillion|lakh|crore|mn|mln|mio|bn|mrd|tn)(?=s?\b))s?
      |\s*(?P<han{0}>[万亿億])
      |(?P<letter{0}>[kKMBTmbt])(?!\w)  # a small m may be metres: it counts after a currency only
    )?"""
_UNSPACED = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"  # letters that no blank parts from a number
# How a cell that is one number may be written where it cannot be anything else: blanks between groups, the sign apart or last.
_GROUPED_BY_BLANKS = re.compile(r"(?<![\w.,/])\d{1,3}(?:[ \u00a0\u202f\u2009]\d{3})+(?:[.,]\d+)?(?![\w/])(?!,\d| ?\d)")
_SIGN_APART, _SIGN_LAST = re.compile(r"\A([-+])\s+(?=[\d.$€£¥])"), re.compile(r"\A([\d.,]*\d)\s?-\Z")
_POWER = re.compile(
    r"(?<![\w.^])(?<![x*])(?<![x*]\s)(?<!times)(?<!times\s)(?<!cdot)(?<!cdot\s)10\s?\^\s?\{?([+-]?\d{1,4})\}?(?![\d.])"
)
_GROUPS = r"\d{1,3}(?:,\d{3})+"
_TERM = rf"(?:{_GROUPS}|\d{{1,9}})(?:\.\d{{1,9}})?"
_NUMBER = re.compile(
    rf"""(?:(?<![\w^√])|(?<={_UNSPACED}))(?<!\d\.)
    (?P<open>\(\s*)?
    (?P<sign>(?<![%)])[-+]|(?:minus|negative)\s+)?
    (?P<currency>{_CURRENCY}\s*)?
    (?P<bracket>\(\s*)?
    (?(currency)(?P<inner>-)?)
    (?:(?P<whole>\d{{1,3}}\ (?:and\ )?|{_GROUPS}[ \u00a0]|\d+\u00a0)?(?<!/)(?P<over>{_TERM})/(?P<under>{_TERM})(?![\d/]|[.,]\d)
      |(?P<european>\d{{1,3}}(?:\.\d{{3}})+,\d{{1,2}}(?!\d))
      |(?P<grouped>(?:[1-9]\d{{0,2}}(?:[,'_\u00a0\u202f\u2009]\d{{3}})+|[1-9]\d?(?:,\d{{2}})+,\d{{3}})(?!\d)(?:\.\d+)?)
      |(?P<comma>(?<!\d,)(?:0,\d+|\d+,\d{{1,2}})(?!\d|[.,]\d))
      |(?P<point>\d+(?:\.\d+)?|\.\d+)
    )
    (?:[eE](?P<exponent>[+-]?\d{{1,4}})(?!\w)|\s*(?:[x*]|\\times|\\cdot)\s*10\s*\^\s*\{{?(?P<power>[+-]?\d{{1,4}})\}}?)?
    {_SUFFIX.format("")}
    (?:(?P<close>\s*\)){_SUFFIX.format("_after")})?
    """,
    re.VERBOSE,
)


def canonical(value: Decimal) -> str | None:
    """Return a decimal string that is equal for equal numbers; None beyond 1e±300, where nobody answers."""
    value = ARITHMETIC.normalize(value)
    if not value.is_finite() or abs(value.adjusted()) > 300:
        return None
    if not value:
        return "0"  # also of -0
    return format(value, "f") if -7 <= value.adjusted() < 21 else str(value)


def plain(token: str) -> str | None:
    """Return a token that is only a number in English notation, as a decimal string."""
    if not re.fullmatch(r"[-+]?(?:(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?|\.\d+)", token):
        return None
    return canonical(ARITHMETIC.create_decimal(token.replace(",", "")))


def only(text: str) -> str | None:
    """Return the number of a text that holds exactly one, as a decimal string."""
    text = _SIGN_LAST.sub(r"-\1", _SIGN_APART.sub(r"\1", _normalised(text).strip()))
    text = _GROUPED_BY_BLANKS.sub(lambda match: re.sub(r"\s", "", match[0]).replace(",", "."), text)
    matches = list(_NUMBER.finditer(text))
    if len(matches) != 1 or re.search(r"\d", text[: matches[0].start()] + text[matches[0].end() :]):
        return None
    return next(find(text), None)


def find(text: str) -> Iterator[str]:
    """Yield the numbers in a text as decimal strings, in order; a number in percent ends in %."""
    text = _normalised(text)
    for match in _NUMBER.finditer(text):
        number = _read(match, alone=not (text[: match.start()] + text[match.end() :]).strip(" \t\r\n.*$`"))
        if number is not None:
            yield number


def _normalised(text: str) -> str:
    text = _VULGAR.sub(lambda match: f"{match['whole']}\u00a0{_part(match)}" if match["whole"] else _part(match), text)
    text = _IN_WORDS.sub(lambda match: f"\u00a0{_SHARES[(match[1] or match[2]).lower()]}", text)
    text = text.translate(_PLAIN)
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() and not c.isascii() else c for c in text)
    text = re.sub(r"[⁻⁺]?[⁰¹²³⁴-⁹]+", lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    return _POWER.sub(r"1e\1", text)


def _part(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match["part"]).replace("\u2044", "/")


def _read(match: re.Match[str], *, alone: bool) -> str | None:
    value = _digits(match)
    exponent, percent = int(match["exponent"] or match["power"] or 0), False
    in_brackets = bool(match["close"] and (match["open"] or match["bracket"]))
    for after in ("", "_after") if in_brackets else ("",):
        letter = match[f"letter{after}"] or ""
        letter = letter if match["currency"] or letter in "kKMB" else ""
        scale = match[f"word{after}"] or match[f"han{after}"] or letter
        exponent += _SCALES.get(scale.lower(), 0) - (2 if match[f"basis{after}"] else 0)
        percent = percent or bool(match[f"percent{after}"] or match[f"basis{after}"])
    # Accounting: (5) is -5 as an answer by itself and in $ (5), where "ten (10)" only says a number again.
    accounting = in_brackets and (alone or match["bracket"] is not None)
    if accounting or match["inner"] or (match["sign"] or "+") != "+":
        value = -value
    text = canonical(ARITHMETIC.scaleb(value, exponent))
    return f"{text}%" if text is not None and percent else text


def _digits(match: re.Match[str]) -> Decimal:
    if match["under"]:
        whole, over, under = (
            Decimal(re.sub(r"[^\d.]", "", match[name] or "") or "0") for name in ("whole", "over", "under")
        )
        return ARITHMETIC.add(whole, ARITHMETIC.divide(over, under))
    if match["european"]:
        digits = match["european"].replace(".", "").replace(",", ".")
    elif match["grouped"]:
        digits = re.sub(r"[^\d.]", "", match["grouped"])
    else:
        digits = (match["comma"] or match["point"]).replace(",", ".")
    return ARITHMETIC.create_decimal(digits)
