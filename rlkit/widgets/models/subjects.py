"""The subjects of a training dashboard's charts: which numbers belong together, their units, and how to read them."""

from __future__ import annotations

from dataclasses import dataclass

MEMORY = "memory/"
Span = tuple[float | None, float | None]


@dataclass(frozen=True)
class Subject:
    """One chart. ``metrics`` of steps, ``evals`` of evaluations: (name, label); ``limits``: settings, as bounds."""

    title: str
    unit: str
    metrics: tuple[tuple[str, str], ...] = ()
    evals: tuple[tuple[str, str], ...] = ()
    limits: tuple[str, ...] = ()
    span: Span = (None, None)
    note: str = ""


SHARE: Span = (0, 1)
UP: Span = (0, None)

SECTIONS: dict[str, tuple[Subject | str, ...]] = {  # a string: subjects that depend on the run
    "Learning": (
        Subject(
            "Reward",
            "mean reward",
            (("reward", "total"), ("score", "after penalties")),
            note="What advantages are computed from, averaged over a step's completions.",
        ),
        "rewards",
        Subject(
            "Accuracy",
            "share right",
            (("accuracy", "training"),),
            (
                ("accuracy_greedy", "held out, greedy"),
                ("accuracy_sampled", "held out, sampled"),
                ("accuracy", "held out"),
            ),
            span=SHARE,
            note="Held-out problems are never trained on.",
        ),
        "loss",
        Subject(
            "Margin",
            "reward, chosen − rejected",
            (("margin_mean", "training"),),
            (("margin_mean", "held out"),),
        ),
        Subject(
            "KL to the reference",
            "nats a token",
            (("kl", "KL"),),
            span=UP,
            note="How far the policy has moved from the model that it started as.",
        ),
        Subject(
            "Entropy",
            "nats a token",
            (("entropy", "entropy"),),
            span=UP,
            note="How undecided the model is. Near 0 it tries nothing else any more.",
        ),
    ),
    "Completions": (
        Subject(
            "Completion length",
            "tokens",
            (("completion_length", "mean"), ("completion_length_max", "longest")),
            limits=("max_completion_length",),
            span=UP,
            note="Completions at the limit were cut off.",
        ),
        Subject("Truncated completions", "share", (("truncated", "truncated"),), span=SHARE),
        Subject(
            "Groups without reward spread",
            "share of groups",
            (("dead_groups", "without spread"),),
            span=SHARE,
            note="Such a group teaches nothing: its advantages are 0.",
        ),
        Subject("Spread of rewards in a group", "standard deviation", (("reward_std", "mean"),), span=UP),
        "unscored",
    ),
    "Update": (
        Subject(
            "Gradient norm",
            "norm",
            (("grad_norm", "before clipping"), ("value_grad_norm", "value model's")),
            limits=("max_grad_norm",),
            span=UP,
            note="Large or wild values mean that the learning rate is too high.",
        ),
        Subject(
            "Clipped tokens",
            "share of tokens",
            (("clip_low", "ratio too low"), ("clip_high", "ratio too high"), ("clip_delta", "beyond delta")),
            span=UP,
            note="These had moved as far as one step allows. On-policy there are none.",
        ),
        Subject(
            "Engine against trainer",
            "nats a token",
            (("engine_gap", "mean"), ("engine_gap_max", "largest")),
            span=UP,
            note="Between the log-probabilities that were sampled from and those that are trained: below 0.001 in "
            "float32, 0.01 to 0.1 in bfloat16.",
        ),
        Subject(
            "Correction of that mismatch",
            "share",
            (("mismatch_ess", "effective sample size"), ("mismatch_kept", "kept")),
            span=SHARE,
        ),
        "policy loss",
        Subject("Learning rate", "of AdamW", (("learning_rate", "learning rate"),), span=UP),
    ),
    "Value model": (
        Subject(
            "Value against return",
            "reward",
            (("value", "value, predicted"), ("return", "return, as it came")),
        ),
        Subject(
            "Explained variance",
            "share",
            (("explained_variance", "explained variance"),),
            note="1: the value model foresees every return. 0: no better than their mean. Below: worse.",
        ),
        Subject("Loss of the value model", "reward²", (("value_loss", "value loss"),), span=UP),
        Subject("Clipped values", "share of tokens", (("value_clip", "clipped"),), span=UP),
        Subject("KL coefficient", "reward a nat", (("kl_coef", "coefficient"),), span=UP),
    ),
    "Time and memory": ("seconds", "memory"),
}
NUMBERS = "All numbers"

LOSSES = {
    "loss": Subject("Loss", "nats", (("loss", "training"),), (("loss", "held out"),)),
    "policy loss": Subject(
        "Loss",
        "of the optimizer",
        (("loss", "loss"), ("policy_loss", "policy's part")),
        note="No measure of success: of a batch that the policy has just sampled it is about 0, whatever is learned.",
    ),
}
