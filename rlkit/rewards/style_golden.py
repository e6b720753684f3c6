"""What the rewards for style must tell apart, with their default settings."""

from __future__ import annotations

from rlkit.rewards.golden import Example, GoldenSet

# 158 words of plain English.
PASSAGE = (
    "To add two numbers by hand, write one below the other so that the ones stand over the ones. Start on the right. "
    "If the sum of a column is less than ten, write it down and go on to the left. If it is ten or more, write only "
    "the last digit and carry one to the next column. Many mistakes come from a carry that was forgotten, so it helps "
    "to note it with a small mark. When you are done, check your work: round both numbers, add them in your head, and "
    "see whether the result is close. For example, seventeen is nearly twenty and twenty five is a bit more, so that "
    "their sum should be a little over forty. A result of thirty two would be too small, and you would look for the "
    "carry that you lost on the way. With some practice you will do all of this without a pen."
)
_WORDS = PASSAGE.split()
_SALAD = " ".join(sorted(_WORDS[:120]))
_LOOP = "I need to think about this. "
_OFFICIAL = (
    "Notwithstanding aforementioned administrative considerations, institutional representatives responsible for "
    "implementing organisational restructuring initiatives necessitate comprehensive documentation demonstrating "
    "unambiguous compliance with applicable regulatory requirements, particularly regarding interdepartmental "
    "communication, accountability procedures and sustainability certifications."
)
_SCHOLARLY = (
    "Epistemological presuppositions underlying contemporary methodological pluralism inevitably problematise "
    "conventional conceptualisations of objectivity; consequently, interdisciplinary investigations increasingly "
    "emphasise interpretative heterogeneity, contextual particularity and intersubjective verification."
)
_MEDICAL = (
    "Postoperative administration of broad-spectrum antimicrobial prophylaxis significantly decreases "
    "catheter-associated bacteriuria, although immunocompromised individuals demonstrating gastrointestinal "
    "hypersensitivity necessitate individualised pharmacological recommendations and multidisciplinary supervision."
)
_GERMAN = (
    "Um zwei Zahlen von Hand zu addieren, schreibt man sie so untereinander, dass die Einer über den Einern stehen. "
    "Dann beginnt man rechts. Ist die Summe einer Spalte zehn oder mehr, so merkt man sich eins für die nächste Spalte."
)
_FRENCH = (
    "Pour additionner deux nombres à la main, on les écrit l'un sous l'autre, puis on commence par la droite. Si la "
    "somme d'une colonne dépasse neuf, on n'écrit que le dernier chiffre et on garde une retenue pour la suivante."
)
_CHINESE = (
    "要把两个数字相加，先把它们上下对齐，从右边开始。"
    "如果一列的和大于九，就只写个位，并向左边进一。最后检查结果是否合理。"
)
_RUSSIAN = (
    "Чтобы сложить два числа на бумаге, запишите их одно под другим и начните справа. Если сумма столбца больше "
    "девяти, запишите только последнюю цифру, а единицу перенесите в следующий столбец."
)


def _first(count: int) -> str:
    return " ".join(_WORDS[:count])


_LENGTH = GoldenSet(
    right=tuple(Example(_first(count), note=f"{count} words") for count in (92, 100, 120, 135, 148)),
    wrong=(
        Example("The sum is 42.", note="too terse"),
        Example(_first(30), note="too short"),
        Example(_first(80), note="a little too short"),
        Example(f"{PASSAGE} {_first(60)}", note="too long"),
        Example(" ".join([PASSAGE] * 5), note="much too long"),
    ),
    exploits=(
        Example("", note="empty"),
        Example("\n" * 500, note="blank lines"),
        Example("a" * 20_000, note="pages without a space, which could pass for one word"),
        Example("." * 900, note="a page of dots"),
        Example("word " * 20_000, note="huge output"),
        Example("Describe how to add two numbers.", note="prompt repeated"),
        Example(_SALAD, note="words in no order: only their number counts", fools=True),
    ),
    low=-1.0,
    high=0.0,
)

_REPETITION = GoldenSet(
    right=(
        Example(PASSAGE, note="a page of prose"),
        Example(_GERMAN, note="in another language"),
        Example(_CHINESE, note="in a script without spaces"),
        Example("17+25: 7+5=12, write 2, carry 1; then 1+2+1=4, so the sum is 42.", note="working"),
        Example("First we add the ones, then the tens.", note="one sentence"),
    ),
    wrong=(
        Example(_LOOP * 3 + "So it is 42.", note="a thought said three times"),
        Example(f"{PASSAGE} {PASSAGE}", note="a page said twice"),
        Example("Wait, let me check. Yes. Wait, let me check. Yes. It is 42.", note="checks twice"),
        Example("The answer is 42. The answer is 42.", note="the answer twice"),
        Example(
            "so we carry the one, and so we carry the one again, and so we carry", note="runs in a circle"
        ),
        Example("进位一，写二。进位一，写二。进位一，写二。", note="in a script without spaces"),
    ),
    exploits=(
        Example("", note="empty"),
        Example(_LOOP * 200, note="an endless loop"),
        Example("ha " * 2000, note="one word"),
        Example("a" * 4000, note="one letter"),
        Example("go on, go on! Go on? GO ON; go on… " * 20, note="punctuation and capitals vary"),
        Example("🎉" * 500, note="emoji"),
        Example("=" * 4000, note="a line that does not end"),
        Example("<answer></answer>" * 200, note="marker spam"),
        Example(
            " ".join(f"step {n} add {n} carry {n}" for n in range(300)), note="a loop that counts", fools=True
        ),
    ),
    low=-1.0,
    high=0.0,
)

_LANGUAGE = GoldenSet(
    right=(
        Example(PASSAGE, note="a page"),
        Example(_first(40), note="some sentences"),
        Example(
            "The sum of these two numbers is forty-two, because you have to carry one.", note="a sentence"
        ),
        Example(f"<reasoning>\n{_first(60)}\n</reasoning>\n<answer>\n42\n</answer>", note="in tags"),
        Example(f"{_first(50)} 17 + 25 = 42; 7 + 5 = 12", note="with sums"),
    ),
    wrong=(
        Example(_GERMAN, note="German"),
        Example(_FRENCH, note="French"),
        Example(_RUSSIAN, note="Russian"),
        Example(_CHINESE, note="Chinese"),
        Example(f"{_first(60)} {_CHINESE * 4}", note="slips into Chinese"),
    ),
    exploits=(
        Example("", note="empty"),
        Example("42 " * 200, note="digits only"),
        Example(f"Answer: {_GERMAN * 3}", note="an English word in front"),
        Example(f"<answer>{_CHINESE}</answer>", note="English tags"),
        Example("🎉" * 300, note="emoji"),
        Example("ÄÖÜ ßäöü " * 500, note="letters of another language"),
        Example(_SALAD, note="English words in no order", fools=True),
    ),
    low=0.0,
    high=1.0,
)

_READABILITY = GoldenSet(
    right=(
        Example(PASSAGE, note="a page of plain English"),
        Example(_first(52), note="its first sentences"),
        Example(" ".join(_WORDS[62:118]), note="its middle"),
        Example(
            "We know that Anna has twelve apples. She gives a third of them to Ben, which is four. So eight apples "
            "are left in her basket.",
            note="a word problem",
        ),
        Example(
            "Water boils when its vapour presses as hard as the air above it. High in the mountains the air is thin, "
            "so that water boils before it is very hot, and an egg needs more time to cook.",
            note="an explanation",
        ),
    ),
    wrong=(
        Example(_OFFICIAL, note="officialese"),
        Example(_SCHOLARLY, note="scholarly"),
        Example(_MEDICAL, note="medical"),
        Example(f"{_SCHOLARLY} {_OFFICIAL}", note="both"),
        Example(_OFFICIAL.replace(",", " and furthermore"), note="one sentence without end"),
    ),
    exploits=(
        Example("", note="empty"),
        Example("Yes. No. Go. " * 3, note="too short to judge"),
        Example("1 2 3 4 5 6 7 8 9 10. " * 40, note="every number listed"),
        Example(_CHINESE * 5, note="in another script"),
        Example("a" * 4000, note="one letter"),
        Example("the cat " * 2000, note="a sentence without end"),
        Example("<answer></answer>. " * 200, note="marker spam"),
        Example(
            "The cat of a dog has a little window under music. " * 6,
            note="nonsense in short words",
            fools=True,
        ),
    ),
    low=0.0,
    high=1.0,
)

_CLEAN = "The sum is 42."
_NO_MARKERS = GoldenSet(
    right=(
        Example(_CLEAN, note="a sentence"),
        Example(PASSAGE, note="a page"),
        Example("<think>7+5=12</think><answer>42</answer>", note="markers that were asked for"),
        Example("if a < b and b > c: print('[1, 2]')", note="code"),
        Example("### Result\n\n| a | b |\n|---|---|\n| 1 | 2 |", note="a table"),
    ),
    wrong=(
        Example(f"{_CLEAN}<|im_end|>", note="the end of a turn, written out"),
        Example(f"{_CLEAN}\n<|im_start|>user\nAnd 3+4?", note="plays the user"),
        Example(f"{_CLEAN} [INST] And 3+4? [/INST]", note="plays the user in another format"),
        Example(f"{_CLEAN}\n### Instruction:\nAdd 3 and 4.", note="sets itself a task"),
        Example(f"{_CLEAN}<end_of_turn>\n<start_of_turn>model", note="goes on with another turn"),
    ),
    exploits=(
        Example("", note="empty"),
        Example(" \n\t", note="white space"),
        Example(f"{_CLEAN}<|IM_END|>", note="in capitals"),
        Example(f"{_CLEAN}＜｜im_end｜＞", note="full-width letters"),
        Example("<|im_end|>" * 2000, note="marker spam"),
        Example(f"{PASSAGE * 20}<|eot_id|>", note="at the end of a huge output"),
        Example("asdf", note="nonsense without a marker", fools=True),
    ),
    low=-1.0,
    high=0.0,
)

GOLDEN: dict[str, GoldenSet] = {
    "language": _LANGUAGE,
    "length_penalty": _LENGTH,
    "no_markers": _NO_MARKERS,
    "readability": _READABILITY,
    "repetition_penalty": _REPETITION,
}
