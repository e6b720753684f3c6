r"""What is handed to SymPy, and what is not.

SymPy computes what it is given, and a model may write anything: ``9^{9^9}`` and ``\gamma(10^9)`` would never end. So
only short texts in the signs of maths pass, of known commands, in which powers, factorials and binomials cannot grow
beyond some thousand digits. The bounds are coarse on purpose: what is refused is compared as text.
"""

from __future__ import annotations

import re

from rlkit.rewards.maths.finding import braced

LONGEST = 200  # characters
DEEPEST = 5  # brackets within brackets
MOST_FUNCTIONS = 3  # sines, logarithms, absolute values and the like
LARGEST_RESULT = 5000  # digits that a power may have
LARGEST_DEGREE = 64  # of a power in an expression with variables

WORDS_IN_LATEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_NAMES_IN_LATEX = re.compile(r"\\(?:begin|end)\s?\{[a-z]{1,8}\}|\\mathbb\s?\{[A-Z]\}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_WORD = re.compile(r"[A-Za-z]{2,}")
_BEYOND_ASCII = frozenset("π∞≤≥≠∪∩∈∅±°θαβγλμ")
# Two letters that are a word and not a product of two variables.
_PROSE = frozenset("so is it to we he an as at be by do go if in me my no of oh on or up us am".split())  # noqa: SIM905
_COMMANDS_IN_A_ROW = (
    "frac dfrac tfrac cfrac sqrt binom dbinom tbinom pi cdot times div pm mp left right text textbf "
    "textit mathrm mathbf mathbb mbox displaystyle infty cup cap setminus in notin emptyset varnothing le "
    "leq leqslant lt ge geq geqslant gt ne neq approx circ degree log ln sin cos tan cot sec csc arcsin "
    "arccos arctan alpha beta delta theta lambda mu rho sigma tau phi varphi omega epsilon varepsilon "
    "lvert rvert vert lfloor rfloor lceil rceil langle rangle lbrace rbrace begin end overline big Big "
    "bigl bigr Bigl Bigr ldots dots cdots"
)
_COMMANDS = frozenset(_COMMANDS_IN_A_ROW.split())
_POWER = re.compile(r"\^|\*\*")
_EXPONENT = re.compile(
    r"\(([^()]*)\)|(-?[0-9]+)|([A-Za-z])|(\\[A-Za-z]+(?:\{[^{}]*\}){0,2})"
)  # after the braces, which nest
# An operator without something on both sides, two numbers in a row. A parser finds that out too, but takes longer.
_DANGLING = re.compile(
    r"(?<!_)[0-9.]\s+[0-9.]|[0-9]\.[0-9]*\.|(?<![A-Za-z\\])[A-Za-z][0-9]|"
    r"^\s*[*/^=,;<>)\]}!%]|[-+*/^=,;<>(\[]\s*$|[*/^=<>(\[{,]\s*[*/^=,;)\]]|[-+]\s*[*/^=,;<>)\]}]|[-+]\s*[-+]\s*[-+]"
)
_RUNAWAY = re.compile(r"[0-9][eE][-+]?[0-9]{4}")  # 1e9999
_FUNCTIONS = re.compile(
    r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)|\\(?:log|ln)|\\l(?:floor|ceil|vert)|\|[^|]*\|"
)
_LOG_BASE = re.compile(r"\\log\s?_(?!\s?(?:[0-9A-Za-z]|\{\s?[0-9A-Za-z]{1,3}\s?\}))")
_FACTORIAL = re.compile(r"(?<![0-9.A-Za-z])(?:[0-9]{1,2}|[A-Za-z])!(?![!=])")
_BINOMIAL = re.compile(r"binom\{[0-9A-Za-z]{1,3}\}\{[0-9A-Za-z]{1,3}\}")


def is_mathematical(text: str) -> bool:
    """Say whether `text` is written in the signs of maths and is no prose: 'x+1' is, 'so it is' is not."""
    if any(letter not in _BEYOND_ASCII for letter in text if not letter.isascii()):
        return False
    if any(command not in _COMMANDS for command in _COMMAND.findall(text)):
        return False
    bare = _COMMAND.sub(" ", WORDS_IN_LATEX.sub(" ", _NAMES_IN_LATEX.sub(" ", text)))
    if any(len(word) > 2 or word.lower() in _PROSE for word in _WORD.findall(bare)):
        return False
    # Letters alone are a name; one letter alone may be a variable.
    if all(letter.isalpha() or letter in " '?!()" for letter in text):
        return len(text.strip("() ")) == 1
    return any(letter.isalnum() for letter in text)


def is_harmless(text: str) -> bool:
    """Say whether SymPy can compute `text` in a moment: nothing nested deeply, nothing that grows without bound."""
    if len(text) > LONGEST or _RUNAWAY.search(text) or _LOG_BASE.search(text):
        return False
    if text.count("|") % 2 or len(_FUNCTIONS.findall(text)) > MOST_FUNCTIONS:
        return False
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        return False
    if text.count("!") != len(_FACTORIAL.findall(text)) or text.count("binom") != len(
        _BINOMIAL.findall(text)
    ):
        return False
    degree = largest_degree(text)
    digits = max((len(number) for number in re.findall("[0-9]+", text)), default=1)
    bare = _COMMAND.sub("", WORDS_IN_LATEX.sub("", _NAMES_IN_LATEX.sub("", text)))
    variables = re.search("[A-Za-z]", bare) is not None
    return degree * digits <= LARGEST_RESULT and (degree <= LARGEST_DEGREE or not variables)


def is_well_formed(text: str) -> bool:
    """Say whether every bracket has a partner and every operator something to work on. (0, 1] is well-formed."""
    if _DANGLING.search(text.replace("\\{", "(").replace("\\}", ")")):
        return False
    depths = {"{": 0, "(": 0}
    for letter in text:
        if letter in "([{)]}":
            kind = "{" if letter in "{}" else "("
            depths[kind] += 1 if letter in "([{" else -1
            if depths[kind] < 0:
                return False
    return not any(depths.values())


def largest_degree(text: str) -> int:
    """Bound the exponents in `text`: the largest one on a number or letter, times all those on brackets.

    A power of a power counts as too large, whatever it comes to.

    >>> largest_degree("x^3 + y^2"), largest_degree("(x^3)^2"), largest_degree("9^9^9") > LARGEST_RESULT
    (3, 6, True)
    """
    on_atoms = on_brackets = 1
    end = -1
    for sign in _POWER.finditer(text):
        exponent, after = _exponent(text, sign.end())
        is_tower = sign.start() == end or any(mark in exponent for mark in ("^", "**", "!"))
        size = LARGEST_RESULT + 1 if is_tower else 1
        for number in re.findall("[0-9]+", exponent):
            size *= max(1, int(number))
        if text[: sign.start()].rstrip()[-1:] in (")", "]", "}", "|"):
            on_brackets *= size
        else:
            on_atoms = max(on_atoms, size)
        end = after
    return on_atoms * on_brackets


def _exponent(text: str, start: int) -> tuple[str, int]:
    """Return the exponent that begins at `start`, and where it ends; of what has no clear end, all that follows."""
    while text[start : start + 1] == " ":
        start += 1
    if text[start : start + 1] == "{":
        content = braced(text, start)
        if content is not None:
            return content, start + len(content) + 2
    match = _EXPONENT.match(text, start)
    return (match.group(), match.end()) if match is not None else (text[start:] + "^", -1)
