"""The report's pictures: which curves a run of each kind has, and how to read them. A picture without data is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlkit.runs import schema
from rlkit.runs.charts import Chart, Series, chart, reliability_chart, time_chart
from rlkit.runs.evidence import finite, number
from rlkit.runs.facts import ON_ROWS, REWARD_MODEL, algorithm
from rlkit.runs.moved import reward_label
from rlkit.runs.reader import Run

_LOWEST = -1.0  # explained variance is drawn from here on: one bad step would hide all others


def charts(run: Run) -> list[Chart]:
    """Every chart of a run that has something to show."""
    curves = _Curves(run)
    found = _on_rows(curves) if algorithm(curves.config) in ON_ROWS else _on_samples(curves)
    return [one for one in found if one is not None]


class _Curves:
    """A run's numbers as curves."""

    def __init__(self, run: Run) -> None:
        self.config, self.metrics, self.evals = run.config, run.metrics, run.evals
        self.reward_names = run.reward_names

    def step(self, name: str, label: str) -> Series:
        """A number of the step lines."""
        return _series(self.metrics, name, label)

    def held_out(self, name: str, label: str) -> Series:
        """A number of the evaluation lines, each marked."""
        return _series(self.evals, name, label, "points")

    def limit(self, name: str) -> Series:
        """A setting as a line across."""
        value = finite(schema.setting(self.config, name))
        return self.level(name, value, self.metrics) if value else Series(name, [], [], "limit")

    def level(self, label: str, value: float, rows: Sequence[Mapping[str, Any]]) -> Series:
        """``value`` as a line across all steps of ``rows``."""
        steps = [row["step"] for row in rows]
        return Series(label, *(([min(steps), max(steps)], [value, value]) if steps else ([], [])), "limit")

    def gradient(self) -> Chart | None:
        norms = [
            self.step("grad_norm", "before clipping"),
            self.step("value_grad_norm", "of the value model"),
        ]
        note = "Large or wild values mean that the learning rate is too high."
        return chart("Gradient norm", "norm", [*norms, self.limit("max_grad_norm")], note, (0, None))

    def entropy(self, note: str) -> Chart | None:
        return chart("Entropy", "nats a token", [self.step("entropy", "entropy")], note, (0, None))


def _series(rows: Sequence[Mapping[str, Any]], name: str, label: str, kind: str = "line") -> Series:
    found = [(row["step"], finite(row.get(name))) for row in rows]
    points = [(step, value) for step, value in found if value is not None]
    return Series(label, [step for step, _ in points], [value for _, value in points], kind)


# -- GRPO and PPO ----------------------------------------------------------------------------------------------


def _on_samples(run: _Curves) -> list[Chart | None]:
    step, held_out = run.step, run.held_out
    functions = [step(schema.REWARDS + name, reward_label(name, run.config)) for name in run.reward_names]
    judged = [held_out("reward_greedy", "held out, greedy"), held_out("reward_sampled", "held out, sampled")]
    if _has(run.evals, "accuracy_greedy"):  # which says more
        judged = []
    exploited = " A function of weight 0 was not trained on: where it falls while the others rise, they are exploited."
    lengths = [step("completion_length", "mean"), step("completion_length_max", "longest")]
    gaps = [step("engine_gap", "mean"), step("engine_gap_max", "largest")]
    return [
        chart(
            "Reward",
            "mean reward",
            [step("reward", "total"), *judged],
            "The total that advantages are computed from, averaged over each step's completions.",
        ),
        chart(
            "Reward by function",
            "mean reward",
            functions,
            "Which part of the reward is learned, and when. A flat line teaches nothing."
            + (exploited if any(one.label.endswith("(weight 0)") for one in functions) else ""),
        ),
        chart(
            "Accuracy",
            "share right",
            [
                step("accuracy", "training, sampled"),
                held_out("accuracy_greedy", "held out, greedy"),
                held_out("accuracy_sampled", "held out, sampled"),
            ],
            "Held-out problems are never trained on. Greedy takes the most probable token each time; sampled draws, as "
            "training does.",
            (0, 1),
        ),
        *_values(run),
        run.entropy(
            "How undecided the model is. It falls while the model learns; near 0 it no longer tries anything else."
        ),
        chart(
            "Completion length",
            "tokens",
            [*lengths, run.limit("max_completion_length")],
            "Completions at the limit were cut off.",
            (0, None),
        ),
        _shares(run),
        run.gradient(),
        *_distance(run),
        chart(
            "Engine against trainer",
            "nats a token",
            gaps,
            "Difference between the log-probabilities that were sampled from and those that are trained: below 0.001 "
            "in fp32, 0.01 to 0.1 in bf16.",
            (0, None),
        ),
        time_chart(
            run.metrics,
            "Rollout: the engine samples. Score: reward functions. "
            + ("Estimate: values, KL and advantages. " if _has(run.metrics, "seconds/estimate") else "")
            + "Update: log-probabilities, gradient, optimiser. Sync: new weights to the engine, and the check that "
            "they arrived.",
        ),
    ]


def _values(run: _Curves) -> list[Chart | None]:
    """PPO's value model."""
    explained = run.step("explained_variance", "explained variance")
    explained = explained._replace(values=[max(value, _LOWEST) for value in explained.values])
    return [
        chart(
            "Value against return",
            "mean, in units of the reward",
            [run.step("value", "value V"), run.step("return", "return R")],
            "What the value model expected before it saw the rewards, and what came. The two should meet.",
        ),
        chart(
            "Explained variance",
            "1 − Var(R − V) / Var(R)",
            [explained],
            "How much of what distinguishes good tokens from bad ones the value model foresaw: 1 is all, 0 nothing. "
            "Values below −1 are drawn at −1.",
            (0, 1),
        ),
        chart(
            "Value loss",
            "half the squared error",
            [run.step("value_loss", "value loss")],
            "It falls while the value model learns, and rises again when the rewards become larger.",
            (0, None),
        ),
    ]


def _shares(run: _Curves) -> Chart | None:
    shares = [
        run.step("dead_groups", "groups without spread"),
        run.step("truncated", "truncated completions"),
        run.step("clip_low", "clipped low"),
        run.step("clip_high", "clipped high"),
        run.step("value_clip", "values clipped"),
    ]
    if _has(run.metrics, "dead_groups"):
        note = (
            "A group without reward spread teaches nothing. A clipped token had moved as far as one step allows; "
            "on-policy there are none."
        )
        return chart("Groups, truncation, clipping", "share", shares, note, (0, 1))
    note = "A clipped token, or value, had moved as far as one step allows: of the last epoch of each step."
    return chart("Truncation and clipping", "share", shares, note, (0, 1))


def _distance(run: _Curves) -> list[Chart | None]:
    """How far the policy goes: within a step, and from the reference."""
    coef = run.step("kl_coef", "β")
    fixed = len(set(coef.values)) == 1
    held = f" β, which holds it there, is {number(coef.values[0])}." if fixed else ""
    return [
        chart(
            "Size of an update",
            "nats a token",
            [run.step("approx_kl", "approximate KL")],
            "How far a step's last epoch is from the policy that sampled. 0.01 to 0.05 is usual.",
            (0, None),
        ),
        chart(
            "KL to the reference",
            "nats a token",
            [run.step("kl", "KL")],
            f"How far the policy has moved from the model that it started as.{held}",
            (0, None),
        ),
        chart(
            "KL of a completion",
            "nats a completion",
            [run.step("kl_completion", "KL"), run.limit("kl_target")],
            "The same, all tokens of a completion together. The further, the less a learned reward model can be "
            "trusted: it was trained on what the reference says.",
        ),
        None
        if fixed
        else chart(
            "KL coefficient",
            "β",
            [coef],
            "It rises where the policy is further away than kl_target, and falls where it is nearer.",
            (0, None),
        ),
    ]


# -- the reward model, and the warm start --------------------------------------------------------------------------


def _on_rows(run: _Curves) -> list[Chart | None]:
    step, held_out = run.step, run.held_out
    pairs = algorithm(run.config) == REWARD_MODEL
    loss = [step("loss", "training"), held_out("loss", "held out")]
    note = (
        "−log of the probability that the chosen side is given. 0.69 is a coin's."
        if pairs
        else "−log of the probability of the tokens to be said. e to its power is the perplexity."
    )
    if _has(run.evals, "loss"):
        note += " Where the held-out loss rises while the other falls, the rows are being learned by heart."
    found = [chart("Loss", "nats a pair" if pairs else "nats a token", loss, note, (0, None))]
    if pairs:
        found += _of_pairs(run)
    return [
        *found,
        run.entropy("How undecided the model is about the tokens that it is to say."),
        run.gradient(),
        time_chart(run.metrics, "Update: forward and backward pass, optimiser."),
    ]


def _of_pairs(run: _Curves) -> list[Chart | None]:
    """Accuracy, calibration and length."""
    step, held_out = run.step, run.held_out
    last = run.evals[-1] if run.evals else {}
    return [
        chart(
            "Accuracy",
            "share of pairs",
            [
                step("accuracy", "training"),
                held_out("accuracy", "held out"),
                run.level("a coin", 0.5, run.evals),
            ],
            "Pairs whose chosen side gets the higher reward. A step's is measured on few pairs, before it learns them.",
            (0, 1),
        ),
        chart(
            "Margin",
            "reward of chosen − rejected",
            [step("margin_mean", "training"), held_out("margin_mean", "held out")],
            "How sure it has become: a margin of 1 stands for 73 %, of 3 for 95 %. Accuracy says whether rightly so.",
        ),
        reliability_chart(
            last.get("calibration") or (),
            "At the last evaluation, beside each point its number of pairs. Points below the dotted line: surer than "
            "it should be. Grey: what chance may do with so few pairs.",
        ),
        chart(
            "Length",
            "share preferring the longer side",
            [held_out("longer_preferred", "the reward model"), held_out("longer_chosen", "the rater")],
            "Held-out pairs of unequal length. Where the model prefers the longer side more often than the rater did, "
            "it has learned that length pays, and a policy trained on it will write at length.",
            (0, 1),
        ),
    ]


def _has(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(finite(row.get(name)) is not None for row in rows)
