"""Reward functions, verifiers and rubrics.

A **verifier** says whether a completion is right: ``verify_number("17+25=42", "42") -> True``. It gives no score. A
**reward function** gives a score, from a verifier's verdict or from anything else (form, length, tone). It has
TRL's signature, ``f(prompts, completions, **columns) -> list[float | None]``, plain or async: lists with one entry per
completion, the data set's columns by name, and None where the function has nothing to say about a completion.
Completions are strings, or message lists where the data set's prompts are; `completion_text` reads both. A **rubric**
is a list of reward functions with names and weights, each of which stays visible.

A reward function that rests on a verifier carries it as ``.verifier``, called as ``verifier(completion, **row)``; a
trainer reports its verdicts as accuracy. `reward_from` makes a reward function from a verifier:

    exact = reward_from(verify, right=3.0, wrong=-3.0)
    rubric = Rubric({"has number": (number_found, 1.0), "right": exact})
    print(audit(rubric, task))          # where would it be hacked?

`names` lists our own by name, as configurations use them; `resolve` finds one. Each has a golden set, by which it is
tested.
"""

from rlkit.rewards.answers import correct_text, stated_answer, verify_text
from rlkit.rewards.audits.audit import audit
from rlkit.rewards.audits.report import Audit
from rlkit.rewards.blocks import read_blocks
from rlkit.rewards.calls import RewardWarning
from rlkit.rewards.code import code_block, extract_code, passes_tests
from rlkit.rewards.drafts.drafter import Draft, draft_reward
from rlkit.rewards.drafts.sandboxed import sandboxed_reward
from rlkit.rewards.equations import correct_equation, equation_found, right_numbers, verify_equation
from rlkit.rewards.formats import read_tags, xml_format
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.graders.rft import from_json as rft_grader
from rlkit.rewards.graders.rft import string_check, text_similarity
from rlkit.rewards.gsm8k import (
    correctness_reward_func,
    int_reward_func,
    soft_format_reward_func,
    strict_format_reward_func,
    xmlcount_reward_func,
)
from rlkit.rewards.judge.llm_judge import LLMJudge
from rlkit.rewards.lengths import soft_overlong
from rlkit.rewards.maths.rewards import (
    compare_maths,
    correct_maths,
    correct_maths_lenient,
    correct_maths_strict,
    maths_parsers,
    read_maths,
    strict_and_lenient,
    verify_maths,
)
from rlkit.rewards.numbers import correct_number, last_number, number_found, only_number, verify_number
from rlkit.rewards.proximity import proximity
from rlkit.rewards.registry import names, resolve, resolve_all
from rlkit.rewards.rubric import Rubric
from rlkit.rewards.rubrics.database import database_rubric
from rlkit.rewards.rubrics.email import email_rubric
from rlkit.rewards.rubrics.professions import LAW_EXAMPLES, MEDICINE_EXAMPLES, law_rubric, medicine_rubric
from rlkit.rewards.signatures import RewardFunction, required_columns, reward_name
from rlkit.rewards.style import language, length_penalty, no_markers, readability, repetition_penalty
from rlkit.rewards.templates.reasoning import Parts, ReasoningTemplate
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.verifiers import reward_from

__all__ = [
    "LAW_EXAMPLES",
    "MEDICINE_EXAMPLES",
    "Audit",
    "Completion",
    "Draft",
    "Example",
    "GoldenSet",
    "LLMJudge",
    "Parts",
    "ReasoningTemplate",
    "RewardFunction",
    "RewardWarning",
    "Rubric",
    "audit",
    "code_block",
    "compare_maths",
    "completion_text",
    "correct_equation",
    "correct_maths",
    "correct_maths_lenient",
    "correct_maths_strict",
    "correct_number",
    "correct_text",
    "correctness_reward_func",
    "database_rubric",
    "draft_reward",
    "email_rubric",
    "equation_found",
    "extract_code",
    "int_reward_func",
    "language",
    "last_number",
    "law_rubric",
    "length_penalty",
    "maths_parsers",
    "medicine_rubric",
    "names",
    "no_markers",
    "number_found",
    "only_number",
    "passes_tests",
    "proximity",
    "read_blocks",
    "read_maths",
    "read_tags",
    "readability",
    "repetition_penalty",
    "required_columns",
    "resolve",
    "resolve_all",
    "reward_from",
    "reward_name",
    "rft_grader",
    "right_numbers",
    "sandboxed_reward",
    "soft_format_reward_func",
    "soft_overlong",
    "stated_answer",
    "strict_and_lenient",
    "strict_format_reward_func",
    "string_check",
    "text_similarity",
    "verify_equation",
    "verify_maths",
    "verify_number",
    "verify_text",
    "xml_format",
    "xmlcount_reward_func",
]
