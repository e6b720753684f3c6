"""A language model as the judge: a reward for what no program can check, such as tone.

    judge = LLMJudge("If the answer sounds too robotic, deduct 3 points", model="gpt-5-mini")
    judge = LLMJudge("…", model="Qwen/Qwen3-4B", base_url="http://localhost:8000/v1")   # vllm serve

Any OpenAI-compatible endpoint will do. A judge is asked about each different completion once, several at a time; its
scores are kept on disk. Where it gives no score (down, too slow, a reply that is no score) the reward is None, never 0:
a zero would punish the completion for the judge's trouble.

A judge is a model, too: it can be flattered and fooled. What is taken care of here is that a completion cannot pose as
somebody else (`rlkit.rewards.judge.prompt`) and cannot reach the parser. Whether it can talk the judge round,
`agreement` with examples of known quality tells.

JSON allows white space without end between its tokens, and a small model that is forced into JSON may write nothing
else, until it is cut off. vLLM forbids it with
``--structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'``.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.rewards.golden import GoldenSet
from rlkit.rewards.judge.cache import JudgeCache, cache_key
from rlkit.rewards.judge.endpoint import Endpoint, openai_package
from rlkit.rewards.judge.prompt import (
    Dialect,
    Message,
    Scale,
    judge_messages,
    number,
    prompt_text,
    read_score,
    score_schema,
)
from rlkit.rewards.judge.usage import JudgeFailure, JudgeWarning, Usage
from rlkit.rewards.text import Completion, completion_text

KEPT_FAILURES = 1000
MAX_CHARACTERS = 16_000  # of one text that is shown to the judge; the middle of a longer one is left out


class LLMJudge:
    """An async reward function: a language model's score for each completion by an instruction in words.

    Args:
        instruction: how to score, such as "If the answer sounds too robotic, deduct 3 points". Scores start at the top.
        model, base_url, api_key, timeout, retries, client_options: the endpoint, see
            `rlkit.rewards.judge.endpoint.Endpoint`.
        scale: the lowest and the highest score. Two whole numbers (ints) ask for whole scores, else any number counts.
        temperature: 0 lets the same answer have the same score, as far as the endpoint can.
        max_tokens: the largest reply. A model that reasons first needs more.
        concurrency: requests under way at once.
        cache_dir: where scores are kept: None the user's cache folder, False nowhere. They are kept by the model's name
            and address: a server that serves another model under the same name needs another folder.
        name: what logs call it.
        include_prompt: show the question, too.
        show_columns: columns of the data set that are shown as well, such as a reference answer.
        prices: of a million prompt and a million completion tokens, for `usage.cost`.
        request_options: more fields of the request, such as ``{"seed": 0}`` or ``{"extra_body": {…}}``.

    Attributes:
        usage: what it has used, see `Usage`.
        failures: the last completions that got no score, with the reason.

    A score is a float in `scale`, or None where the judge failed; the first failure is a `JudgeWarning`. The reply is
    forced into a JSON schema where the endpoint can; where it refuses that, this is learnt once, and the same small
    object is asked for in words.

    Raises `ConfigError` for settings that cannot work and a missing key, when it is made; and, until the endpoint has
    answered once, where that does not accept the key or the model. Later the same is a failure like any other.
    """

    def __init__(
        self,
        instruction: str,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        scale: tuple[float, float] = (0, 10),
        temperature: float = 0.0,
        max_tokens: int = 512,
        concurrency: int = 8,
        retries: int = 3,
        timeout: float = 30.0,
        cache_dir: str | os.PathLike[str] | bool | None = None,
        name: str = "judge",
        include_prompt: bool = True,
        show_columns: Sequence[str] = (),
        prices: tuple[float, float] | None = None,
        request_options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(instruction, str) or not instruction.strip():
            raise bad_value("instruction", instruction, "text that says how to score")
        self.scale: Scale = _pair("scale", scale)
        if not self.scale[0] < self.scale[1]:
            raise bad_value("scale", scale, "the lowest and the highest score, in this order")
        if (
            isinstance(temperature, bool)
            or not isinstance(temperature, int | float)
            or not 0 <= temperature <= 2
        ):
            raise bad_value("temperature", temperature, "a number from 0 to 2")
        for setting, value in (("max_tokens", max_tokens), ("concurrency", concurrency)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise bad_value(setting, value, "a whole number, 1 or more")
        if not isinstance(name, str) or not name.strip():
            raise bad_value("name", name, "what logs shall call this judge")
        self.endpoint = Endpoint(model, base_url, api_key, timeout, retries, dict(client_options or {}))
        self.instruction = instruction.strip()
        self.whole = all(isinstance(end, int) for end in scale)
        self.temperature, self.max_tokens, self.concurrency = float(temperature), max_tokens, concurrency
        self.include_prompt = include_prompt
        self.show_columns = (show_columns,) if isinstance(show_columns, str) else tuple(show_columns)
        self.request_options = dict(request_options or {})
        self.cache = _cache(cache_dir)
        self.usage = Usage(prices=None if prices is None else _pair("prices", prices))
        self.failures: list[JudgeFailure] = []
        self.required_columns = list(self.show_columns)
        self.__name__ = self.__qualname__ = name
        self.__doc__ = (
            f"{model} judges: {self.instruction} ({number(self.scale[0])} to {number(self.scale[1])})"
        )
        self._dialect = Dialect()
        self._answered = False
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"LLMJudge({self.instruction!r}, model={self.endpoint.model!r}, scale={self.scale})"

    async def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        """Score `completions`; lists with one entry per completion, as every reward function takes them."""
        answers = [completion_text(completion) for completion in completions]
        requests = []
        for i, answer in enumerate(answers):
            shown = {name: _as_text(columns[name][i]) for name in self.show_columns}
            question = prompt_text(prompts[i]) if self.include_prompt else None
            requests.append(
                judge_messages(
                    self.instruction, self.scale, self.whole, question, answer, shown, MAX_CHARACTERS
                )
            )
        return await self.score_messages(requests, answers)

    async def score_messages(
        self, requests: Sequence[list[Message]], answers: Sequence[str]
    ) -> list[float | None]:
        """Return a score for each list of messages that asks for one; `answers` are what failures are noted with.

        Whoever words the messages must see to it that they ask for ``{"score": n}``.
        """
        keys = [self._key(messages) for messages in requests]
        found: dict[str, float | str] = {}
        asked: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key in found or key in asked:
                continue
            kept = self.cache.get(key) if self.cache else None
            if kept is not None and self.scale[0] <= kept <= self.scale[1]:
                found[key] = kept
            else:
                asked[key] = position
        if asked:
            limit = asyncio.Semaphore(self.concurrency)
            # A client belongs to the event loop that it was made in, and every call may run in another one.
            async with self.endpoint.async_client() as client:

                async def one(key: str, position: int) -> None:
                    async with limit:
                        found[key] = await self._ask(client, requests[position])
                    score = found[key]
                    if self.cache and isinstance(score, float):
                        self.cache.put(key, score, self.endpoint.model)

                try:
                    async with asyncio.TaskGroup() as group:
                        for key, position in asked.items():
                            group.create_task(one(key, position))
                except ExceptionGroup as failed:  # the first one says it all
                    raise failed.exceptions[0] from failed.exceptions[0].__cause__
        self.usage.cached += len(keys) - len(asked)
        for key, position in asked.items():
            reason = found[key]
            if isinstance(reason, str):
                self.usage.failed += 1
                self.failures.append(JudgeFailure(reason, answers[position]))
        del self.failures[:-KEPT_FAILURES]
        scores = [found[key] for key in keys]
        self._warn(scores)
        return [score if isinstance(score, float) else None for score in scores]

    async def agreement(self, golden: GoldenSet) -> float | None:
        """Ask about examples of known quality and return how often the judge puts a right one above a wrong one.

        Of all pairs of a right example and a wrong one or exploit: the share in which the right one scores higher, ties
        counting half. 1 is perfect, 0.5 a coin; None where nothing could be compared. In a notebook:
        ``await judge.agreement(golden)``; elsewhere ``asyncio.run(judge.agreement(golden))``.
        """
        examples = [*golden.right, *golden.wrong, *golden.exploits]
        columns = {
            name: [example.columns.get(name, "") for example in examples] for name in self.show_columns
        }
        prompts, answers = [e.prompt for e in examples], [e.completion for e in examples]
        scores = await self(prompts, answers, **columns)
        cut = len(golden.right)
        right = [score for score in scores[:cut] if score is not None]
        wrong = [score for score in scores[cut:] if score is not None]
        pairs = [1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong]
        return sum(pairs) / len(pairs) if pairs else None

    def _key(self, messages: list[Message]) -> str:
        """All that a score depends on; the instruction, prompt and completion are in the messages."""
        return cache_key(
            model=self.endpoint.model,
            base_url=self.endpoint.base_url,
            messages=messages,
            scale=[*self.scale, self.whole],
            sampling=[self.temperature, self.max_tokens, repr(sorted(self.request_options.items()))],
        )

    def _request(self, messages: list[Message], dialect: Dialect) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": dialect.spoken(messages),
            dialect.limit: self.max_tokens,
        }
        if dialect.temperature:
            request["temperature"] = self.temperature
        if dialect.schema:
            request["response_format"] = score_schema(self.scale, self.whole)
        return {**request, **self.request_options}

    async def _ask(self, client: Any, messages: list[Message]) -> float | str:
        """Ask once; the score, or in words why there is none.

        Raises `ConfigError` where the endpoint accepts neither key nor model, and never has.
        """
        openai = openai_package()
        self.usage.requests += 1
        dialect = self._dialect
        while True:
            try:
                raw = await client.chat.completions.with_raw_response.create(
                    **self._request(messages, dialect)
                )
                reply = raw.parse()
                reply = await reply if inspect.isawaitable(reply) else reply
                self.usage.retries += raw.retries_taken
                break
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                simpler = dialect.simpler(str(error))
                if simpler is None:
                    return self.endpoint.explain(error)
                dialect = simpler
            except Exception as error:  # whatever the endpoint sends, and whatever the client makes of it
                reason = self.endpoint.explain(error)
                if self.endpoint.refuses(error) and not self._answered:
                    raise ConfigError(
                        f"the judge {self.__name__!r} cannot work: {reason}. Check model={self.endpoint.model!r}, "
                        "base_url and api_key"
                    ) from error
                return reason
        self._answered, self._dialect = True, dialect  # learnt: this form of the request is understood
        return self._read(reply)

    def _read(self, reply: Any) -> float | str:
        """Take note of the tokens and read the score."""
        self.usage.add_tokens(getattr(reply, "usage", None))
        try:
            choice = reply.choices[0]
            content = choice.message.content
        except (AttributeError, IndexError, TypeError):
            return f"the endpoint's answer is no chat completion: {str(reply)[:80]!r}"
        if refusal := getattr(choice.message, "refusal", None):
            return f"the judge refused: {str(refusal)[:80]!r}"
        try:
            return read_score(content if isinstance(content, str) else None, self.scale)
        except ValueError as error:
            cut = getattr(choice, "finish_reason", None) == "length"
            return f"{error}; it was cut off at max_tokens={self.max_tokens}" if cut else str(error)

    def _warn(self, scores: Sequence[float | str]) -> None:
        reasons = [score for score in scores if isinstance(score, str)]
        if reasons and "failed" not in self._warned:
            self._warned.add("failed")
            text = (
                f"the judge {self.__name__!r} gave no score for {len(reasons)} of {len(scores)} completions, which get "
                f"None: {reasons[0]}. Said once; the others are counted in .usage.failed and listed in .failures"
            )
            warnings.warn(text, JudgeWarning, stacklevel=3)
        if self.cache and self.cache.trouble and "cache" not in self._warned:
            self._warned.add("cache")
            text = f"the judge {self.__name__!r}: {self.cache.trouble}; every score is asked for anew"
            warnings.warn(text, JudgeWarning, stacklevel=3)


def _pair(name: str, value: Any) -> tuple[float, float]:
    """Two finite numbers as floats."""
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e15 for v in value
    ):
        raise bad_value(name, value, "two numbers, such as (0, 10)")
    return float(value[0]), float(value[1])


def _cache(folder: str | os.PathLike[str] | bool | None) -> JudgeCache | None:
    """The cache in `folder`; None stands for the user's own, False for none."""
    if folder is False:
        return None
    if folder is None or folder is True:
        from rlkit.fetchable import cache_dir

        return JudgeCache(cache_dir() / "judge")
    if not isinstance(folder, str | os.PathLike):
        raise bad_value("cache_dir", folder, "a folder, None for the usual one, or False for none")
    return JudgeCache(Path(folder))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


CONFIGURED = {"llm_judge": LLMJudge}
"""Offered by name with settings: without an instruction and a model there is no judge to audit."""
