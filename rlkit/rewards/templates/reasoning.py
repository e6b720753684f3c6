"""Reasoning templates: the markers between which a model works and answers, and all that follows from them.

    <start_working_out>7+5=12, write 2, carry 1; 1+2+1=4<end_working_out><SOLUTION>42</SOLUTION>

Markers stand in many places: in the system prompt, in the chat template of a base model that has none, in the
demonstrations of a warm start, and in every reward that looks at form or answer. `ReasoningTemplate` holds them once
and makes the rest, so that what is asked for, what is shown and what is paid for cannot drift apart:

    template = ReasoningTemplate()
    template.apply_to(tokenizer)                                        # a base model learns to take turns
    rows = template.demonstrations(solved)                              # for SFTTrainer: the format, before any RL
    problems = [{**row, "prompt": template.prompt(row["prompt"])} for row in task.train]
    trainer = GRPOTrainer(model, template.rewards(), args, problems, processing_class=tokenizer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlkit.errors import ConfigError, bad_value
from rlkit.rewards.blocks import read_blocks
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.templates.chat import chat_template
from rlkit.rewards.text import Completion, completion_text

DEFAULT_INSTRUCTION = "You are given a problem to solve."


class Parts(NamedTuple):
    """What a completion in the format says: its working and its solution, without markers and outer white space."""

    reasoning: str
    solution: str


@dataclass(frozen=True)
class ReasoningTemplate:
    """The format of a reasoning model's answer, and everything that is made from it.

    Attributes:
        reasoning: the opening and the closing marker of the working.
        solution: the opening and the closing marker of the solution.
        instruction: what the system prompt says before it explains the markers; None for a general sentence.
        prefilled: the prompt already ends with the opening marker of the reasoning, so that a model cannot skip it;
            completions then do not hold it. Needs the chat template of `apply_to`, which writes it there.
        own_lines: every marker is written on a line of its own (the layout that ``strict`` rewards ask for).

    The four markers may be any texts that are not blank, as long as none occurs in another.

    Raises:
        ConfigError: for other markers, or an instruction that is no text.

    >>> ReasoningTemplate.think().read("<think>7+5=12</think> <answer>42</answer>")
    Parts(reasoning='7+5=12', solution='42')
    """

    reasoning: tuple[str, str] = ("<start_working_out>", "<end_working_out>")
    solution: tuple[str, str] = ("<SOLUTION>", "</SOLUTION>")
    instruction: str | None = None
    prefilled: bool = False
    own_lines: bool = False

    def __post_init__(self) -> None:
        for name in ("reasoning", "solution"):
            pair = getattr(self, name)
            two = isinstance(pair, list | tuple) and len(pair) == 2
            if not two or not all(isinstance(marker, str) and marker.strip() for marker in pair):
                allowed = "two texts that are not blank: an opening and a closing marker"
                raise bad_value(name, pair, allowed, "Such as ('<think>', '</think>').")
            object.__setattr__(self, name, tuple(pair))  # a configuration file has lists
        for i, marker in enumerate(self.markers):
            for j, other in enumerate(self.markers):
                if i != j and marker in other:
                    cause = (
                        f"{marker!r} occurs in {other!r}, so that it could not be told where a block ends."
                    )
                    raise bad_value("markers", self.markers, "four, none of which occurs in another", cause)
        if self.instruction is not None and not isinstance(self.instruction, str):
            raise bad_value("instruction", self.instruction, "a text, or None for a general one")
        for name in ("prefilled", "own_lines"):
            if not isinstance(getattr(self, name), bool):
                raise bad_value(name, getattr(self, name), "True or False")

    @classmethod
    def working_out(cls, **settings: Any) -> ReasoningTemplate:
        """``<start_working_out>…<end_working_out><SOLUTION>…</SOLUTION>``: the default markers."""
        return cls(**settings)

    @classmethod
    def think(cls, **settings: Any) -> ReasoningTemplate:
        """``<think>…</think><answer>…</answer>``: the markers of DeepSeek-R1-Zero (arXiv:2501.12948)."""
        return cls(("<think>", "</think>"), ("<answer>", "</answer>"), **settings)

    @classmethod
    def xml(cls, **settings: Any) -> ReasoningTemplate:
        """``<reasoning>…</reasoning><answer>…</answer>``, each marker on its line: usual with GSM8K."""
        settings = {"own_lines": True, **settings}
        return cls(("<reasoning>", "</reasoning>"), ("<answer>", "</answer>"), **settings)

    @property
    def markers(self) -> tuple[str, str, str, str]:
        """The four markers in the order in which they are written."""
        return (*self.reasoning, *self.solution)

    # -- what is asked for -----------------------------------------------------------------------------------

    @property
    def system_prompt(self) -> str:
        """The instruction, followed by the rules of the format with the markers in them."""
        instruction = DEFAULT_INSTRUCTION if self.instruction is None else self.instruction.strip()
        (think, thought), (say, said) = self.reasoning, self.solution
        rules = f"First work it out step by step, between {think} and {thought}. "
        rules += f"Then write the solution, and nothing else, between {say} and {said}."
        if self.own_lines:
            rules += " Write each of these markers on a line of its own."
        return f"{instruction}\n{rules}".strip()

    def prompt(self, question: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages that put `question` to the model: the system prompt and the question.

        `question` may also be messages; the rules then follow on what their system message says, if there is one.
        """
        if isinstance(question, str):
            question = [{"role": "user", "content": question}] if question.strip() else []
        good = isinstance(question, list | tuple) and all(isinstance(part, Mapping) for part in question)
        if not good or not question:
            raise bad_value("question", question, "a text that is not blank, or a list of messages")
        messages = [dict(message) for message in question]
        system = self.system_prompt
        if messages[0].get("role") == "system":
            system = f"{messages.pop(0).get('content') or ''}\n{system}".strip()
        return [{"role": "system", "content": system}, *messages]

    @property
    def chat_template(self) -> str:
        r"""A Jinja chat template for a model that has none: system prompt, turns, an end token after the assistant's.

        A conversation without a system message gets `system_prompt`. The generation prompt is ``Assistant:\n``, with
        `prefilled` followed by the opening marker.
        """
        return chat_template(self.system_prompt, self.reasoning[0] if self.prefilled else None)

    def apply_to(self, tokenizer: Any) -> Any:
        """Give `tokenizer` this chat template, in place of whatever it had, and return it.

        Meant for base models. An instruct model is better served by its own template and `prompt` alone. A tokenizer
        that begins every text with a bos token gets it written by the template.

        Raises `ConfigError` for a tokenizer without an end token: the model could never learn to stop.
        """
        if not getattr(tokenizer, "eos_token", None):
            cause = "An answer could not be ended. Set tokenizer.eos_token first."
            raise bad_value("tokenizer", type(tokenizer).__name__, "a tokenizer with an eos_token", cause)
        bos = getattr(tokenizer, "bos_token_id", None)
        begins = bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + self.chat_template
        return tokenizer

    # -- what is shown ---------------------------------------------------------------------------------------

    def completion(self, reasoning: str, solution: str) -> str:
        """What the model should say: `reasoning` and `solution` in their markers.

        With `prefilled` the opening marker is missing, since the prompt has it. Raises `ConfigError` where
        one of them is blank or holds a marker: then the completion could not be read back.

        >>> ReasoningTemplate.think(prefilled=True).completion("7+5=12, carry 1", "42")
        '7+5=12, carry 1</think><answer>42</answer>'
        """
        for name, text in (("reasoning", reasoning), ("solution", solution)):
            if not isinstance(text, str) or not text.strip():
                raise bad_value(name, text, "a text that is not blank")
        edge = "\n" if self.own_lines else ""
        (think, thought), (say, said) = self.reasoning, self.solution
        whole = edge.join([think, reasoning.strip(), thought, say, solution.strip(), said])
        text = whole.removeprefix(think) if self.prefilled else whole
        if self.read(text, strict=True) != (reasoning.strip(), solution.strip()):
            allowed = f"texts without the markers {', '.join(self.markers)}"
            raise bad_value("reasoning, solution", f"{reasoning:.60}, {solution:.60}", allowed)
        return text

    def demonstrations(
        self,
        rows: Sequence[Mapping[str, Any]],
        question: str = "question",
        reasoning: str = "reasoning",
        answer: str = "answer",
    ) -> list[dict[str, Any]]:
        """Rows ``{"prompt": messages, "completion": messages}`` with which `SFTTrainer` teaches the format.

        Args:
            rows: solved problems.
            question, reasoning, answer: the names of their columns; an answer may be a number.

        Raises:
            ConfigError: naming the row that lacks a column, or whose text is blank or holds a marker.

        >>> solved = [{"question": "17+25=", "reasoning": "7+5=12, carry 1", "answer": 42}]
        >>> ReasoningTemplate.think().demonstrations(solved)[0]["completion"]
        [{'role': 'assistant', 'content': '<think>7+5=12, carry 1</think><answer>42</answer>'}]
        """
        made = []
        for i, row in enumerate(rows):
            for column in (question, reasoning, answer):
                if column not in row:
                    raise ConfigError(
                        f"row {i} has no {column!r} (found: {', '.join(map(str, row))}). Name the columns: "
                        "demonstrations(rows, question=…, reasoning=…, answer=…)"
                    )
            number = isinstance(row[answer], int | float) and not isinstance(row[answer], bool)
            solution = str(row[answer]) if number else row[answer]
            try:
                prompt, said = self.prompt(row[question]), self.completion(row[reasoning], solution)
            except ConfigError as error:
                raise ConfigError(f"row {i} cannot be shown: {error}") from None
            made.append({"prompt": prompt, "completion": [{"role": "assistant", "content": said}]})
        return made

    # -- what is read ----------------------------------------------------------------------------------------

    def whole(self, completion: Completion) -> str:
        """The answer's text from the opening marker on, of which with `prefilled` the prompt holds the first part."""
        text = completion_text(completion)
        return self.reasoning[0] + text if self.prefilled else text

    def read(self, completion: Completion, strict: bool = False) -> Parts | None:
        """Return what a completion says, or None where it is not in the format.

        In the format means: both blocks once, in order, not blank, with nothing but white space around them.
        `strict` fixes that white space to what `completion` writes (a newline may follow). With `prefilled` the
        opening marker is taken as said; a completion that says it again is not in the format.
        """
        blocks = (self.reasoning, self.solution)
        found = read_blocks(self.whole(completion), blocks, strict, self.own_lines)
        return None if found is None else Parts(*found)

    def solution_in(self, completion: Completion) -> str | None:
        """Return the solution alone, or None; unlike `read`, it does not mind what else there is.

        Each of the two markers must occur once, with something between them, and no marker of the reasoning may come
        after the opening one: an answer that is followed by its working, or stands inside it, counts as none.
        """
        before, opening, rest = self.whole(completion).partition(self.solution[0])
        if not opening or any(marker in rest for marker in (*self.reasoning, self.solution[0])):
            return None
        solution, closing, after = rest.partition(self.solution[1])
        if not closing or self.solution[1] in before or self.solution[1] in after:
            return None
        return solution.strip() or None

    # -- what is paid for: rlkit.rewards.templates.rewards, which imports this module ---------------------------

    def format_reward(self, strict: bool = False, right: float = 1.0, wrong: float = 0.0) -> RewardFunction:
        """Return the reward for a completion in the format, whatever it says: `reasoning_format`."""
        from rlkit.rewards.templates.rewards import reasoning_format

        return reasoning_format(self, strict, right, wrong)

    def approximate_format_reward(self, right: float = 0.25, wrong: float = -0.25) -> RewardFunction:
        """Return the reward for each marker that occurs exactly once: `reasoning_markers`."""
        from rlkit.rewards.templates.rewards import reasoning_markers

        return reasoning_markers(self, right, wrong)

    def answer_reward(
        self,
        verifier: Callable[..., bool] | None = None,
        compare: Callable[[str, Any], bool] | None = None,
        right: float = 3.0,
        wrong: float = -3.0,
        whole: bool = False,
    ) -> RewardFunction:
        """Return the reward for a right solution, by a verifier or a comparison: `reasoning_answer`."""
        from rlkit.rewards.templates.rewards import reasoning_answer

        return reasoning_answer(self, verifier, compare, right, wrong, whole)

    def number_reward(self, right: float = 3.0, wrong: float = -3.0, whole: bool = False) -> RewardFunction:
        """Return the reward for a solution whose number is right: `reasoning_number`."""
        from rlkit.rewards.templates.rewards import reasoning_number

        return reasoning_number(self, right, wrong, whole)

    def rewards(self, verifier: Callable[..., bool] | None = None) -> list[RewardFunction]:
        """What one would start training with: the markers, the format, and the answer that they are there for.

        The answer is right where `verifier` says so (a task's ``.verifier``); without one its number is compared.
        """
        answer = self.number_reward() if verifier is None else self.answer_reward(verifier)
        return [self.approximate_format_reward(), self.format_reward(), answer]
