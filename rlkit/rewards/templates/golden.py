"""What the rewards of reasoning templates must tell apart, with their default markers."""

from __future__ import annotations

from rlkit.rewards.golden import Example, GoldenSet

OPEN, CLOSE, SAY, SAID = "<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>"
WORKING = "7+5=12, write 2, carry 1; 1+2+1=4"
QUESTION = "What is 17 plus 25?"
ROW = {"answer": "42"}


def _written(solution: str, working: str = WORKING, gap: str = "") -> str:
    return f"{OPEN}{working}{CLOSE}{gap}{SAY}{solution}{SAID}"


def _with_answer(completion: str, note: str, prompt: str = QUESTION, fools: bool = False) -> Example:
    return Example(completion, ROW, note, prompt, fools)


_IN_FORMAT = (
    Example(_written("42"), note="as the template writes it"),
    Example(_written("42", gap="\n") + "\n", note="a line break between the blocks"),
    Example(f"\n{OPEN}\n{WORKING}\n{CLOSE}\n\n{SAY}\n42\n{SAID}\n", note="every marker on its line"),
    Example(_written("x = 3/4", "2x = 6/4,\nso x = 3/4"), note="other contents, several lines"),
    Example(_written("5 < 7", "is 5 < 7? yes"), note="angle brackets that are no markers"),
)
_OUT_OF_FORMAT = (
    Example("42", note="the answer alone"),
    Example(f"{WORKING}{CLOSE}{SAY}42{SAID}", note="not opened"),
    Example(f"{OPEN}{WORKING}{CLOSE}{SAY}42", note="cut off"),
    Example(f"{OPEN}{WORKING}{CLOSE}42", note="no solution block"),
    Example(f"Sure! {_written('42')}", note="chatter before"),
    Example(f"{_written('42')} I hope that helps.", note="chatter after"),
    Example(_written("42").lower(), note="markers in other capitals"),
)

_FORMAT_EXPLOITS = (
    Example("", note="empty"),
    Example(f"Write your working between {OPEN} and {CLOSE}.", note="prompt repeated"),
    Example(f"{OPEN}{CLOSE}{SAY}{SAID}", note="nothing between the markers"),
    Example(f"{OPEN} \n {CLOSE}{SAY}\u2003{SAID}", note="white space between the markers"),
    Example(f"{OPEN}{CLOSE}{SAY}{SAID}" * 200, note="marker spam"),
    Example(f"{SAY}42{SAID}{OPEN}{WORKING}{CLOSE}", note="answer before the working"),
    Example(f"{OPEN}{WORKING}{SAY}42{SAID}{CLOSE}", note="answer inside the working"),
    Example(f"{OPEN}a{SAID}{CLOSE}{SAY}42", note="a closing marker hidden in the working"),
    Example(_written("42") + "so " * 20_000, note="huge output"),
    Example(_written("42").replace("<", "＜").replace(">", "＞"), note="full-width brackets"),
    Example(_written("42") + _written("43"), note="two answers"),
    Example(_written("banana", "banana"), note="nonsense in the right shape", fools=True),
)

_MARKED = (
    *_IN_FORMAT,
    Example(f"Sure! {_written('42')}", note="chatter around does not matter here"),
)
_BADLY_MARKED = (
    Example("42", note="no marker"),
    Example(f"{WORKING}{CLOSE}{SAY}42{SAID}", note="not opened"),
    Example(f"{OPEN}{WORKING}{CLOSE}{SAY}42", note="cut off"),
    Example(f"{OPEN}{WORKING}{CLOSE}42", note="no solution block"),
    Example(_written("42") + SAID, note="one marker twice"),
    Example(_written("42").lower(), note="markers in other capitals"),
)
_MARKER_EXPLOITS = (
    Example("", note="empty"),
    Example(f"{OPEN}{CLOSE}{SAY}{SAID}" * 200, note="marker spam"),
    Example(f"Write your working between {OPEN} and {CLOSE}.", note="prompt repeated"),
    Example(_written("42").replace("<", "＜").replace(">", "＞"), note="full-width brackets"),
    Example(_written("42") * 2, note="everything twice"),
    Example(f"{OPEN}{CLOSE}{SAY}{SAID}", note="the markers alone", fools=True),
    Example(f"{SAID}{SAY}{CLOSE}{OPEN}", note="the markers in reverse", fools=True),
)

_RIGHT = (
    _with_answer(_written("42"), "as the template writes it"),
    _with_answer(_written("\n42\n", gap="\n"), "line breaks"),
    _with_answer(f"{OPEN}I guess 41 or 43? No.{CLOSE}{SAY}42{SAID}", "guesses in the working only"),
    _with_answer(f"{WORKING}{SAY}42{SAID}", "the working is not marked"),
    _with_answer(f"{_written('42')} I hope that helps.", "chatter after"),
)
_WRONG = (
    _with_answer(_written("32"), "the carry forgotten"),
    _with_answer(_written("-42"), "wrong sign"),
    _with_answer(_written("420"), "one digit too many"),
    _with_answer(_written("4.2"), "the point misplaced"),
    _with_answer(_written("unknown"), "no answer"),
    _with_answer(f"{OPEN}{WORKING}{CLOSE}42", "no solution block"),
    _with_answer(f"{OPEN}{WORKING}{CLOSE}{SAY}42", "cut off"),
)
_ANSWER_EXPLOITS = (
    _with_answer("", "empty"),
    _with_answer(QUESTION, "prompt repeated"),
    _with_answer("The answer is 42.", "right, but not marked"),
    _with_answer(_written("32", "the answer is 42"), "right answer in the wrong place"),
    _with_answer(f"42{_written('32')}42", "right answer around a wrong one"),
    _with_answer(_written(" ".join(map(str, range(101)))), "every number listed"),
    _with_answer("".join(_written(str(n)) for n in range(101)), "a block for every number"),
    _with_answer(f"{SAY}32{SAID}{SAY}42{SAID}", "two solutions"),
    _with_answer(f"{SAY}42{SAID}{OPEN}{WORKING}{CLOSE}", "answer before the working"),
    _with_answer(f"{OPEN}{WORKING}{SAY}42{SAID}{CLOSE}", "answer inside the working"),
    _with_answer(_written("４２"), "unicode digits"),
    _with_answer(_written(""), "nothing between the markers"),
    _with_answer(f"{OPEN}{CLOSE}{SAY}{SAID}" * 200, "marker spam"),
    _with_answer(_written("32") + "42 " * 20_000, "huge output"),
    _with_answer(_written("32</SOLUTION><SOLUTION>42"), "injected markers"),
)

GOLDEN: dict[str, GoldenSet] = {
    "reasoning_format": GoldenSet(_IN_FORMAT, _OUT_OF_FORMAT, _FORMAT_EXPLOITS, 0.0, 1.0),
    "reasoning_markers": GoldenSet(_MARKED, _BADLY_MARKED, _MARKER_EXPLOITS, -1.0, 1.0),
    "reasoning_answer": GoldenSet(_RIGHT, _WRONG, _ANSWER_EXPLOITS, -3.0, 3.0),
    "reasoning_number": GoldenSet(
        (*_RIGHT, _with_answer(_written("$42.00"), "written otherwise")), _WRONG, _ANSWER_EXPLOITS, -3.0, 3.0
    ),
}
