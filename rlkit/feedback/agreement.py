"""How far raters agree beyond chance: Cohen's κ for two, Fleiss' κ for any number.

    κ = (p_observed − p_chance) / (1 − p_chance)

1: always the same; 0: as often as chance would have it; below 0: less. J. Cohen, "A coefficient of agreement for
nominal scales" (1960); J. L. Fleiss, "Measuring nominal scale agreement among many raters" (1971).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from rlkit.errors import bad_value


def cohen_kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's κ of two raters' answers to the same items, in the same order.

    p_chance = Σ_k (share of k among ``one``'s answers) · (share of k among ``other``'s).

    Returns:
        κ; None where chance alone would make them agree always (both gave one and the same answer throughout).

    Raises:
        ConfigError: not as many answers of the one as of the other, or none.

    >>> cohen_kappa("yyynn", "yynnn")
    0.6153846153846154
    """
    if len(one) != len(other) or not one:
        raise bad_value(
            "answers", f"{len(one)} and {len(other)}", "as many of the one rater as of the other, 1 or more"
        )
    n = len(one)
    agreed = sum(a == b for a, b in zip(one, other, strict=True))
    mine, theirs = Counter(one), Counter(other)
    by_chance = sum(count * theirs[answer] for answer, count in mine.items())  # in n² parts, exact
    return None if by_chance == n * n else (agreed * n - by_chance) / (n * n - by_chance)


def fleiss_kappa(answers: Sequence[Sequence[Hashable]]) -> float | None:
    """Fleiss' κ of items that were each answered by the same number of raters, 2 or more; who they are does not matter.

    p_observed = mean over items of the share of pairs of raters that agree; p_chance = Σ_k (share of k among all)².

    Returns:
        κ; None where all answers are one and the same.

    Raises:
        ConfigError: no items, fewer than two answers to one, or not as many to each.

    >>> round(fleiss_kappa(["yyy", "yyn", "nnn", "ynn"]), 6)
    0.333333
    """
    raters = len(answers[0]) if answers else 0
    if raters < 2 or any(len(item) != raters for item in answers):
        sizes = sorted({len(item) for item in answers})
        raise bad_value("answers", sizes, "items with the same number of answers each, 2 or more")
    counts = [Counter(item) for item in answers]
    pairs = sum(count * (count - 1) for item in counts for count in item.values())
    observed = pairs / (len(answers) * raters * (raters - 1))
    total = sum(counts, Counter())
    given = len(answers) * raters
    if max(total.values()) == given:
        return None
    by_chance = sum(count * count for count in total.values()) / given**2
    return (observed - by_chance) / (1 - by_chance)
