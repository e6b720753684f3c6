"""The names that the objectives understand. No torch here, so that a configuration can be checked without
it."""

from __future__ import annotations

from rlkit.errors import bad_value, unknown_name

#: How the loss weighs tokens against each other (`normalisers.token_weights`); "gspo" is "grpo" with one
#: ratio a completion.
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo")

#: Where the ratio rho = pi_new / pi_old is formed: one a token, or one a completion.
IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")

#: Schulman's three estimators of KL(pi_new || pi_ref) (`kl.kl_estimate`).
KL_ESTIMATORS = ("k1", "k2", "k3")

#: What the advantage is divided by (`advantages.group_advantages`).
ADVANTAGE_SCALES = ("group", "batch", "none")

#: What is subtracted from the reward (`advantages.group_advantages`).
ADVANTAGE_BASELINES = ("group", "leave_one_out")

#: How a difference between engine and trainer is corrected (`ratios.mismatch_weight`).
MISMATCH_MODES = (
    "token_truncate",
    "token_mask",
    "sequence_truncate",
    "sequence_mask",
    "geometric_truncate",
    "geometric_mask",
)

#: A length-normalised sequence ratio stays within about 1e-3 of 1; a clip range wider than this never clips.
WIDEST_SEQUENCE_EPSILON = 0.01


def resolve_scale(scale: str | bool) -> str:
    """Translate TRL's booleans (True is "group", False is "none") and check the name.

    Raises ConfigError for a name outside `ADVANTAGE_SCALES`.
    """
    if isinstance(scale, bool):
        return "group" if scale else "none"
    if scale not in ADVANTAGE_SCALES:
        raise unknown_name(
            "scale_rewards", scale, ADVANTAGE_SCALES, "True means 'group', False means 'none'."
        )
    return scale


def resolve_level(loss_type: str, level: str | None) -> str:
    """The level at which ratios are formed: `level`, or for None what the loss type implies.

    None gives "sequence" for "gspo" and "token" for every other loss type.
    Raises ConfigError for an unknown name, and for "gspo" with "token", which contradict each other.
    """
    if loss_type not in LOSS_TYPES:
        raise unknown_name("loss_type", loss_type, LOSS_TYPES)
    if level is None:
        return "sequence" if loss_type == "gspo" else "token"
    if level not in IMPORTANCE_SAMPLING_LEVELS:
        raise unknown_name("importance_sampling_level", level, IMPORTANCE_SAMPLING_LEVELS)
    if loss_type == "gspo" and level == "token":
        raise bad_value(
            "importance_sampling_level",
            level,
            '"sequence" (or None) with loss_type="gspo"',
            'GSPO is GRPO with one ratio a completion; for one ratio a token say loss_type="grpo".',
        )
    return level
