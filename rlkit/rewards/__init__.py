"""Reward functions and verifiers.

A **verifier** says whether a completion is right: ``verify_number("17+25=42", "42") -> True``. It gives no score. A
**reward function** gives a score, from a verifier's verdict or from anything else (form, length, tone). It has
TRL's signature, ``f(prompts, completions, **columns) -> list[float | None]``: lists with one entry per completion, the
data set's columns by name, and None where the function has nothing to say about a completion. Completions are strings,
or message lists where the data set's prompts are; `completion_text` reads both.

A reward function that rests on a verifier carries it as ``.verifier``, called as ``verifier(completion, **row)``; a
trainer reports its verdicts as accuracy. Ours: `number_found`, `correct_number`, `only_number`, and the factories
`xml_format`, `soft_overlong` and `from_verifier`. `resolve` finds one by its name in a configuration.
"""

from rlkit.rewards.formats import RewardFunction, read_tags, xml_format
from rlkit.rewards.lengths import soft_overlong
from rlkit.rewards.numbers import correct_number, last_number, number_found, only_number, verify_number
from rlkit.rewards.registry import from_verifier, names, required_columns, resolve, reward_name
from rlkit.rewards.text import Completion, completion_text

__all__ = [
    "Completion",
    "RewardFunction",
    "completion_text",
    "correct_number",
    "from_verifier",
    "last_number",
    "names",
    "number_found",
    "only_number",
    "read_tags",
    "required_columns",
    "resolve",
    "reward_name",
    "soft_overlong",
    "verify_number",
    "xml_format",
]
