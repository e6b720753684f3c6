"""Demonstrations in: prompt/completion or chat rows to token ids, and which of the tokens are learned.

The rows are those of TRL:

    {"prompt": "17+25=", "completion": "42"}                            strings; the end token is added
    {"prompt": [{"role": "user", …}], "completion": [{"role": "assistant", …}]}
    {"messages": [{"role": "user", …}, {"role": "assistant", …}, …]}    any number of turns

Learned is what the model will have to say by itself: a completion with its end token, in a chat each of the
assistant's turns up to its end-of-turn token. Prompts are tokenised as they are when answers are sampled, so that the
warm start teaches the very distribution that reinforcement learning samples from.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.config import ConfigWarning
from rlkit.errors import ConfigError
from rlkit.given import described, how_to_make_rows, is_in_columns
from rlkit.rollout import Messages, Row, completion_as_given
from rlkit.trainers.data import check_tokenizer

_FORMATS = (
    '{"prompt": "17+25=", "completion": "42"} (two strings or two lists of messages) or {"messages": [{"role": "user", '
    '"content": …}, {"role": "assistant", "content": …}]}'
)
_ONE_A_TURN = "give one row a turn: the messages before it as 'prompt', the turn as 'completion'"


@dataclass(slots=True)
class Example:
    """A row as the model reads it.

    Attributes:
        input_ids: prompt and completion, up to the last token that is learned (length L).
        learned: True where the token is learned (length L, never the first).
    """

    input_ids: list[int]
    learned: list[bool]

    def __len__(self) -> int:
        return len(self.input_ids)


def demonstrations(rows: Sequence[Row], answer: str | Callable[[Row], Any] = "answer") -> list[Row]:
    """Warm-start rows from a task's: each prompt with the answer that one would like to see.

    Args:
        rows: rows with a ``prompt``, such as ``task.train``.
        answer: the name of the column that holds the answer, or a function of the row that writes it out, say
            with its working: ``lambda row: f"{row['working']} #### {row['answer']}"``.

    Raises:
        ConfigError: a row has no prompt or no such column, or its answer is neither a text nor a whole number.

    >>> demonstrations([{"prompt": "17+25=", "answer": "42"}])
    [{'prompt': '17+25=', 'completion': '42'}]
    """
    made = []
    for i, row in enumerate(rows):
        for column in ("prompt", *([] if callable(answer) else [answer])):
            if column not in row:
                raise ConfigError(
                    f"row {i} has no {column!r} (found: {', '.join(map(str, row))}). Allowed: the name of a column of "
                    "every row, or a function of the row"
                )
        text = answer(row) if callable(answer) else row[answer]
        if isinstance(text, bool) or not isinstance(text, (str, int)) or not str(text).strip():
            raise ConfigError(
                f"the answer of row {i} is {described(text)}; allowed: a text that is not empty, or a whole number"
            )
        made.append({"prompt": row["prompt"], "completion": completion_as_given(row["prompt"], str(text))})
    return made


def make_examples(
    dataset: Any,
    tokenizer: Any,
    *,
    end_ids: Collection[int],
    max_length: int | None = None,
    name: str = "train_dataset",
) -> tuple[list[Example], int]:
    """Every row of a data set as an :class:`Example`, and how many rows were left out.

    Args:
        dataset: a list of dicts or a ``datasets.Dataset``.
        end_ids: the tokens at which sampling stops.
        max_length: rows with more tokens are left out, with a warning; None takes all.

    Raises:
        ConfigError: no rows; a row in no known format, or with nothing to learn; a chat template that cannot read a
            row, or that writes what has been said differently later on; every row is too long.
    """
    check_tokenizer(tokenizer)
    rows = _check_container(dataset, name)
    examples, endless, longest = [], 0, 0
    for i, row in enumerate(rows):
        where = f"row {i} of {name}"
        parts, end_token = _parts(row, tokenizer, where)
        example, ended = _example(parts, end_token, tokenizer, end_ids)
        if example.learned[0]:
            raise ConfigError(f"the prompt of {where} has no tokens: a completion needs a token before it")
        longest = max(longest, len(example))
        if max_length is None or len(example) <= max_length:
            examples.append(example)
            endless += not ended
    left_out = len(rows) - len(examples)
    if not examples:
        raise ConfigError(
            f"all {len(rows)} rows of {name} are longer than max_length={max_length} tokens (the longest: {longest}). "
            "Raise max_length, load the model with a longer max_seq_length, or shorten the rows"
        )
    if left_out:
        warnings.warn(
            f"{left_out} of the {len(rows)} rows of {name} are left out: they are longer than max_length={max_length} "
            f"tokens (the longest: {longest})",
            ConfigWarning,
            stacklevel=3,
        )
    if endless:
        ends = ", ".join(repr(tokenizer.decode([token])) for token in sorted(end_ids))
        warnings.warn(
            f"in {endless} of the {len(examples)} rows of {name} a turn does not end in a token at which sampling "
            f"stops ({ends}): the model will not learn to stop. The chat template writes another one, or none; make "
            "the tokenizer's eos_token the one that the template writes",
            ConfigWarning,
            stacklevel=3,
        )
    return examples, left_out


def _check_container(dataset: Any, name: str) -> list[Row]:
    """The data set as a list of dicts."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or is_in_columns(dataset):
        raise ConfigError(
            f"{name} must be a list of dicts or a datasets.Dataset with prompts and completions, not "
            f"{described(dataset)}. {how_to_make_rows(dataset)}".rstrip()
        )
    rows = [dataset[i] for i in range(len(dataset))]
    if not rows:
        raise ConfigError(f"{name} has no rows; was it filtered to nothing?")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(f"row {i} of {name} is {described(row)}; every row must be a dict: {_FORMATS}")
    return [dict(row) for row in rows]


# -- a row as parts of text --------------------------------------------------------------------------------

Part = tuple[str, bool]  # a text, and whether it is learned


def _parts(row: Row, tokenizer: Any, where: str) -> tuple[list[Part], int | None]:
    """What the model reads, cut where learning begins and ends; and the end token, where no template writes it."""
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if "messages" in row:
            raise ConfigError(
                f"{where} has prompt and completion, and messages too. Remove the one or the other"
            )
        if isinstance(prompt, str) and isinstance(completion, str):
            _check_texts(prompt, completion, tokenizer, where)
            return [(prompt, False), (completion, True)], tokenizer.eos_token_id
        if isinstance(prompt, str) or isinstance(completion, str):
            raise ConfigError(
                f"{where}: the prompt is {described(prompt)}, the completion {described(completion)}. Allowed: two "
                "strings or two lists of messages"
            )
        _check_messages(prompt, "prompt", where)
        _check_messages(completion, "completion", where)
        if prompt[-1]["role"] == "assistant":
            raise ConfigError(
                f"{where}: the last message of the prompt is the assistant's. Allowed: what the model has to say "
                "stands in the completion"
            )
        return _chat_parts([*prompt, *completion], len(prompt), row, tokenizer, where), None
    if "messages" in row:
        _check_messages(row["messages"], "messages", where)
        return _chat_parts(row["messages"], 0, row, tokenizer, where), None
    found = ", ".join(map(str, row)) or "no columns"
    if "text" in row:
        why = "A 'text' does not say where the prompt ends, so that there is no completion to learn; split it in two"
    elif "conversations" in row:
        why = "Rename 'conversations' to 'messages', its 'from' to 'role' and its 'value' to 'content'"
    else:
        why = 'Rename the columns: the question\'s to "prompt", the answer\'s to "completion"'
    raise ConfigError(f"{where} has no completion to learn (found: {found}). Allowed: {_FORMATS}. {why}")


def _check_texts(prompt: str, completion: str, tokenizer: Any, where: str) -> None:
    for column, text in (("prompt", prompt), ("completion", completion)):
        if not text.strip():
            raise ConfigError(f"the {column} of {where} is empty; remove the row or fill it in")
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "processing_class has no eos_token, so that a completion cannot be ended and the model would not learn to "
            "stop. Set tokenizer.eos_token"
        )


def _check_messages(messages: Any, column: str, where: str) -> None:
    good = isinstance(messages, list) and all(
        isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in messages
    )
    if not good or not messages:
        raise ConfigError(
            f"{column} of {where} is {described(messages)}; allowed: a list of messages with 'role' and 'content', "
            "not empty"
        )


def _chat_parts(messages: Messages, first: int, row: Row, tokenizer: Any, where: str) -> list[Part]:
    """The text of a chat, cut around the assistant's turns from message ``first`` on."""
    turns = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    if not any(str(messages[i]["content"] or "").strip() or messages[i].get("tool_calls") for i in turns):
        roles = ", ".join(str(message["role"]) for message in messages[first:])
        raise ConfigError(
            f"{where}: the assistant says nothing (roles: {roles}), so that there is nothing to learn. Allowed: at "
            "least one message with role 'assistant' and a content"
        )
    if turns[0] == 0:
        raise ConfigError(
            f"{where} begins with the assistant's message. Allowed: a message of the system or the user first"
        )
    tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools") or None

    def written(count: int, *, generate: bool) -> str:
        """The first messages as the template writes them; with the opening of the assistant's turn."""
        try:
            text = tokenizer.apply_chat_template(
                messages[:count], tools=tools, tokenize=False, add_generation_prompt=generate
            )
        except Exception as error:  # whatever a chat template raises
            raise ConfigError(
                f"the chat template cannot read {where}: {type(error).__name__}: {error}. Chat templates differ in the "
                "roles, and their order, that they allow; a model without one takes rows of two strings"
            ) from error
        return str(text)

    whole = written(turns[-1] + 1, generate=False)
    parts: list[Part] = []
    done = 0  # characters
    for i in turns:
        before, after = written(i, generate=True), written(i + 1, generate=False)
        if not whole.startswith(after):
            raise ConfigError(
                f"{where}: the chat template writes the assistant's message {i} differently once other messages follow "
                "(templates of thinking models drop earlier thinking), so that no one row of tokens is what the model "
                f"reads at each of its turns. Allowed: a template whose text only grows; or {_ONE_A_TURN}"
            )
        if not after.startswith(before) or done > len(before):
            raise ConfigError(
                f"{where}: the chat template opens the assistant's turn with {_tail(before)!r} where the answer is "
                f"still to come, and writes message {i} as {_tail(after)!r}, so that the model would learn an answer "
                "that does not follow what it reads when it has to answer. Allowed: a template that writes the same "
                "both times"
            )
        parts += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
        done = len(after)
    return parts


def _tail(text: str) -> str:
    return text if len(text) <= 60 else f"…{text[-59:]}"


# -- parts as tokens ---------------------------------------------------------------------------------------


def _example(
    parts: Sequence[Part], end_token: int | None, tokenizer: Any, end_ids: Collection[int]
) -> tuple[Example, bool]:
    """The tokens of the parts, and whether every turn ends in a token at which sampling stops.

    After that token nothing is sampled: the line break that many templates write there is not learned.
    """
    pieces = token_ids_of(tokenizer, [text for text, _ in parts], special=end_token is not None)
    if end_token is not None and pieces[-1][-1:] != [end_token]:
        pieces[-1].append(end_token)
    ids: list[int] = []
    learned: list[bool] = []
    ended = True
    for (_, learn), piece in zip(parts, pieces, strict=True):
        last = max((k for k, token in enumerate(piece) if token in end_ids), default=None)
        ended = ended and (not learn or last is not None)
        kept = len(piece) if last is None else last + 1
        ids += piece
        learned += [learn and k < kept for k in range(len(piece))]
    length = len(learned) - learned[::-1].index(
        True
    )  # what comes after the last learned token changes nothing
    return Example(ids[:length], learned[:length]), ended


def token_ids_of(tokenizer: Any, texts: Sequence[str], special: bool) -> list[list[int]]:
    """Token ids of each text, as they stand in the tokens of all of them joined.

    Where a token would reach across a border (a tokenizer that has "=4" in "17+25=" + "42") each text is tokenised
    by itself, since the prompt is when answers are sampled.
    """

    def ids(text: str, special: bool) -> list[int]:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])

    whole = ids("".join(texts), special)
    cuts = [0]
    for k in range(1, len(texts)):
        head = ids("".join(texts[:k]), special)
        if whole[: len(head)] != head:
            return [ids(text, special and j == 0) for j, text in enumerate(texts)]
        cuts.append(len(head))
    return [whole[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(whole)], strict=True)]
