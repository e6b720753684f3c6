"""Short stories with a number for an answer: arithmetic as a small chat model meets it.

    Mia has 8 apples. Tom gives Mia 5 more apples. How many apples does Mia have now?   →   13

The stories are our own templates: a scene, what happens, a question. One step takes one operation, two steps two.
No number in a story, on the way or at its end is above `max_number`, and none is below 2 except answers, so
that "1 apples" never occurs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.rewards.numbers import correct_number, number_found
from rlkit.tasks.base import Task
from rlkit.tasks.card import GUESSED, LAST_NUMBER, OURS

NAMES = ("Mia", "Tom", "Ana", "Ben", "Lena", "Omar", "Ruth", "Ivan", "Nora", "Paul", "Zoe", "Karim")
SMALLEST = 2  # the plural is then always right


@dataclass(frozen=True, slots=True)
class Story:
    """A template: `text` with {name}, {other} and the numbers {a}, {b} (and {c}), and the operations between them."""

    text: str
    operations: str  # "+", or "*-" for a·b − c; × and ÷ come first, so that left to right is right

    @property
    def free(self) -> int:
        """How many of the first numbers may change places: then it is the same sum."""
        return 1 if self.operations[0] in "-/" else 3 if self.operations == "++" else 2


_ONE_STEP = {
    "+": (
        "{name} has {a} apples. {other} gives {name} {b} more apples. How many apples does {name} have now?",
        "A bus carries {a} people. At the next stop {b} more people get on. How many people are on the bus?",
        "{name} reads {a} pages in the morning and {b} in the evening. How many pages does {name} read that day?",
        "In a pond there are {a} ducks and {b} swans. How many birds are in the pond?",
        "A book costs {a} coins and a pen costs {b} coins. How many coins do they cost together?",
    ),
    "-": (
        "{name} has {a} cookies and eats {b} of them. How many cookies are left?",
        "There are {a} birds on a roof. {b} birds fly away. How many birds are still on the roof?",
        "{name} has {a} coins and spends {b} coins on a toy. How many coins does {name} have left?",
        "A baker makes {a} rolls and sells {b} rolls. How many rolls are not sold?",
        "{name} is {a} years old. {other} is {b} years younger. How old is {other}?",
    ),
    "*": (
        "There are {a} boxes with {b} pencils in each box. How many pencils are there in all?",
        "{name} swims {a} laps every day. How many laps does {name} swim in {b} days?",
        "A garden has {a} rows with {b} tulips in each row. How many tulips are in the garden?",
    ),
    "/": (
        "{a} sweets are shared equally among {b} children. How many sweets does each child get?",
        "{name} puts {a} photos on pages, {b} photos on each page. How many pages are filled?",
    ),
}
_TWO_STEPS = {
    "+-": (
        "{name} has {a} marbles, finds {b} more and then loses {c}. How many marbles does {name} have now?",
        "A bus carries {a} people. {b} people get on, then {c} get off. How many people are on the bus?",
    ),
    "-+": (
        "{name} picks {a} pears, gives {b} to {other} and then picks {c} more. How many pears does {name} have?",
    ),
    "--": ("A shop has {a} lamps. It sells {b} on Monday and {c} on Tuesday. How many lamps are left?",),
    "++": ("{name} saves {a} coins in May, {b} in June and {c} in July. How many coins does {name} save?",),
    "*+": (
        "{name} buys {a} books for {b} coins each and a bag for {c} coins. How many coins does {name} pay?",
    ),
    "*-": (
        "There are {a} tables with {b} chairs each. {c} chairs are broken. How many chairs are not broken?",
    ),
    "/+": (
        "{b} players share {a} cards equally. One of them, {name}, draws {c} more. How many cards does {name} hold?",
    ),
}
STORIES = {
    steps: tuple(Story(text, operations) for operations, texts in kinds.items() for text in texts)
    for steps, kinds in ((1, _ONE_STEP), (2, _TWO_STEPS))
}
"""All stories, by the number of their steps."""

# Question, answer, operations. None is told with a template above, so none can be a train or test problem.
_EXAMPLES = (
    ("A farm has 6 goats and 3 sheep. How many animals are there?", "There are 6 + 3 = 9 animals.", "+"),
    ("Eva has 7 stamps and gives away 2. How many stamps does Eva keep?", "Eva keeps 7 - 2 = 5 stamps.", "-"),
    ("A car has 4 wheels. How many wheels do 2 cars have?", "They have 2 * 4 = 8 wheels.", "*"),
    ("2 squirrels share 6 nuts. How many nuts does each get?", "Each gets 6 / 2 = 3 nuts.", "/"),
    (
        "Eva walks 5 miles, then 2 miles more. How many miles does Eva walk?",
        "Eva walks 5 + 2 = 7 miles.",
        "+",
    ),
    ("A tree has 9 leaves. 5 leaves fall. How many leaves stay?", "There stay 9 - 5 = 4 leaves.", "-"),
    ("There are 4 red cups and 4 blue cups. How many cups are there?", "There are 4 + 4 = 8 cups.", "+"),
    ("Eva is 8 and her brother is 6. How many years older is Eva?", "Eva is 8 - 6 = 2 years older.", "-"),
    ("A farm has 6 goats and 3 sheep. 2 are sold. How many stay?", "There stay 6 + 3 - 2 = 7 animals.", "+-"),
    ("Eva has 9 pens, lends 4 and buys 2. How many pens does she have?", "Eva has 9 - 4 + 2 = 7 pens.", "-+"),
    (
        "3 sheets have 2 stamps each. 4 stamps are loose. How many stamps?",
        "There are 3 * 2 + 4 = 10 stamps.",
        "*+",
    ),
    ("A tree has 9 leaves. 5 leaves fall, then 2. How many stay?", "There stay 9 - 5 - 2 = 2 leaves.", "--"),
    (
        "2 cars have 4 wheels each. 3 are flat. How many are not flat?",
        "There are 2 * 4 - 3 = 5 wheels.",
        "*-",
    ),
    ("2 squirrels share 6 nuts. One finds 4 more. How many has it?", "It has 6 / 2 + 4 = 7 nuts.", "/+"),
)


def worked_examples(count: int, steps: int, operations: str) -> list[tuple[str, str]]:
    """Return the first `count` (question, answer) with these steps and operations, or as many as there are."""
    fitting = [(q, a) for q, a, used in _EXAMPLES if len(used) == steps and set(used) <= set(operations)]
    return fitting[:count]


def value(operations: str, numbers: tuple[int, ...], max_number: int) -> int | None:
    """Return what the numbers come to, from left to right; None where a step leaves 1 … `max_number` or has a rest.

    Fewer numbers than the operations need are a story's beginning.

    >>> value("*+", (3, 4, 5), 20), value("/", (7, 2), 20)
    (17, None)
    """
    result = numbers[0]
    for operation, number in zip(operations, numbers[1:], strict=False):
        if operation == "/":
            result, rest = divmod(result, number)
            if rest:
                return None
        else:
            result += {"+": number, "-": -number, "*": result * (number - 1)}[operation]
        if not 1 <= result <= max_number:
            return None
    return result


def problems(story: Story, max_number: int) -> list[tuple[int, ...]]:
    """Return every choice of numbers that `story` can be told with; where the order is free, the rising one."""
    found: list[tuple[int, ...]] = [()]
    for place in range(len(story.operations) + 1):
        longer = ((*numbers, last) for numbers in found for last in range(SMALLEST, max_number + 1))
        found = [
            numbers
            for numbers in longer
            if value(story.operations, numbers, max_number) is not None
            and not (0 < place < story.free and numbers[-2] > numbers[-1])
        ]
    return found


def word_problems(
    n_train: int = 240,
    n_test: int = 60,
    seed: int = 0,
    max_number: int = 10,
    steps: int = 1,
    operations: str = "+-*/",
    system_prompt: str | None = None,
    examples: int = 4,
) -> Task:
    """Return `n_train` + `n_test` short arithmetic stories, as chat messages, with whole numbers for answers.

    Rows are ``{"prompt": [messages], "answer": "13"}``: the system prompt (None: none), `examples` worked examples as
    earlier turns (0 to 4, as far as there are any with these operations), and the story. The verifier takes the last
    number of a completion (`rewards.numbers`), so "8 + 5 = 13" and "13" are both right. `operations` are those that
    stories may take, of "+-*/"; `max_number` bounds every number in a story, on the way and at its end.

    No two rows tell the same story with the same numbers, whatever the names and (for sums and products) the order,
    so train and test share no problem. All stories come equally often as far as they have enough problems. The
    same arguments give the same rows.

    Raises `ConfigError` for values out of range, or where there are not so many different problems.
    """
    for name, number, low, high, cause in (
        ("n_train", n_train, 1, 100_000, ""),
        ("n_test", n_test, 1, 100_000, "without a test side nobody can tell learning from memory."),
        ("max_number", max_number, 9, 100, "below 9 there are hardly any problems."),
        ("steps", steps, 1, 2, "stories have one step or two."),
        ("examples", examples, 0, 4, "each of them makes every prompt longer."),
    ):
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise bad_value(name, number, f"a whole number from {low} to {high}", cause)
    if not isinstance(operations, str) or not operations or not set(operations) <= set("+-*/"):
        raise bad_value("operations", operations, "one or more of the characters + - * /, such as '+-'")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise bad_value("seed", seed, "a whole number")
    if system_prompt is not None and (not isinstance(system_prompt, str) or not system_prompt.strip()):
        raise bad_value("system_prompt", system_prompt, "text, or None for none")

    rng = random.Random(seed)
    dealt = _deal([s for s in STORIES[steps] if set(s.operations) <= set(operations)], max_number, rng)
    if n_train + n_test > len(dealt):
        raise ConfigError(
            f"n_train={n_train} and n_test={n_test} make {n_train + n_test} problems, but max_number={max_number}, "
            f"steps={steps} and operations={operations!r} allow only {len(dealt)} different ones. Ask for fewer, raise "
            "max_number or allow more operations."
        )
    before = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for question, answer in worked_examples(examples, steps, operations):
        before += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    chosen = dealt[: n_train + n_test]
    rng.shuffle(chosen)  # so that both sides have the same mix, also where short stories have run out
    rows = [_row(story, numbers, max_number, before, rng) for story, numbers in chosen]
    return Task(
        name="word_problems",
        train=rows[n_test:],
        test=rows[:n_test],
        verifier=correct_number.verifier,  # type: ignore[attr-defined]
        reward_funcs=(number_found, correct_number),
        description=f"stories with numbers up to {max_number}, steps: {steps}; both sides share none",
        licence=OURS,
        source="rlkit's own templates",
        seed=seed,
        columns={"prompt": "worked examples and the story", "answer": "the number that it asks for, as text"},
        judging=LAST_NUMBER,
        weaknesses=(
            GUESSED,
            f"All stories come from at most {len(STORIES[steps])} templates, the same on both sides: the test side "
            "shows what was learned of these, not of word problems in general.",
        ),
    )


def _deal(
    stories: Sequence[Story], max_number: int, rng: random.Random
) -> list[tuple[Story, tuple[int, ...]]]:
    """Return every problem once, in random order, the stories taking turns until each has run out."""
    piles = [[(story, numbers) for numbers in problems(story, max_number)] for story in stories]
    for pile in piles:
        rng.shuffle(pile)
    dealt = []
    while piles := [pile for pile in piles if pile]:
        round_ = [pile.pop() for pile in piles]
        rng.shuffle(round_)
        dealt += round_
    return dealt


def _row(
    story: Story, numbers: tuple[int, ...], max_number: int, before: list[dict[str, str]], rng: random.Random
) -> dict[str, Any]:
    """Tell a story: draw names, and an order where it is free."""
    answer = value(story.operations, numbers, max_number)
    numbers = (*rng.sample(numbers[: story.free], story.free), *numbers[story.free :])
    name, other = rng.sample(NAMES, 2)
    text = story.text.format(name=name, other=other, **dict(zip("abc", numbers, strict=False)))
    return {"prompt": [*(dict(m) for m in before), {"role": "user", "content": text}], "answer": str(answer)}
