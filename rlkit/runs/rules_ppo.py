"""What only PPO can go wrong with: the value model, the size of its updates, the distance to the reference policy."""

from __future__ import annotations

from statistics import median

from rlkit.runs.evidence import ENOUGH, Diagnosis, Evidence, lately, number, percent

FAR = 10.0  # nats a completion; e^10 = 22,000 times as probable as under the reference


def value_explains_nothing(run: Evidence) -> Diagnosis | None:
    """Explained variance of 0 or less: V is no better a baseline than one number for all tokens."""
    if len(run.values("explained_variance")) < ENOUGH:  # it begins at 0, with a new head
        return None
    recent = run.recent("explained_variance")
    if not recent or (typical := median(recent)) > 0:
        return None
    clips = run.mean("value_clip") or 0.0
    clipped = "raise cliprange_value or set it to None, " if clips > 0.3 else ""
    return Diagnosis(
        "value_explains_nothing",
        "warning",
        f"The value model explains nothing after {len(run.steps)} steps: explained variance {number(typical)} "
        f"{lately(len(recent))} (1 is perfect, 0 one number for all tokens). Advantages are then as noisy as rewards.",
        f"Raise value_learning_rate (1e-3 to 1e-2 for a new head), {clipped}or give it more completions a step. "
        "Harmless where all prompts are equally hard and nearly all completions get the same reward: there is nothing "
        "to explain.",
    )


def value_clipped(run: Evidence) -> Diagnosis | None:
    """V wants to move further a rollout than cliprange_value, which is in units of the reward, lets it."""
    share, limit = run.mean("value_clip"), run.amount("cliprange_value")
    recent = run.recent("value_clip")
    if share is None or len(recent) < 5 or share <= 0.3:
        return None
    return Diagnosis(
        "value_clipped",
        "warning",
        f"{percent(share)} of the values were clipped {lately(len(recent))}: the value model wants to move by more "
        f"than cliprange_value {number(limit)} a rollout, and learns more slowly than it could.",
        "cliprange_value is in units of the reward: set it to about a tenth of the rewards' range, or to None. Or "
        "normalise the rewards (as_reward(normalise=True), whiten_rewards).",
    )


def large_updates(run: Evidence) -> Diagnosis | None:
    """Ratios far from 1 at the end of a rollout's epochs. TRL and OpenAI's code look for 0.01 to 0.02 nats."""
    recent, clipped = run.recent("approx_kl"), (run.mean("clip_low") or 0.0) + (run.mean("clip_high") or 0.0)
    if len(recent) < 3 or (typical := median(recent)) <= 0.1:
        return None
    return Diagnosis(
        "large_updates",
        "problem" if typical > 1 else "warning",
        f"A step's updates move the policy by {number(typical)} nats a token (approx_kl {lately(len(recent))}; 0.01 to "
        f"0.05 is usual), and {percent(clipped)} of the tokens are clipped: the last epochs learn from completions "
        "that the policy would no longer sample.",
        "Lower learning_rate, or num_ppo_epochs and num_mini_batches; a value head on the policy also moves it: lower "
        "vf_coef.",
    )


def far_from_reference(run: Evidence) -> Diagnosis | None:
    """So far from the reference policy that the reward model judges texts of a kind that nobody compared."""
    values = run.recent("kl_completion")
    if not values or (far := sum(values) / len(values)) <= FAR:
        return None
    coef = run.recent("kl_coef")
    at = f" at kl_coef {number(coef[-1])}" if coef else ""
    return Diagnosis(
        "far_from_reference",
        "info" if run.recent("accuracy") else "warning",
        f"The policy is {number(far)} nats a completion from the reference{at}: a learned reward model is trusted "
        "further than it was trained.",
        "Read the completions. Raise kl_coef or set kl_target, stop earlier, or collect new comparisons on what the "
        "policy says now. Where a verifier judges, distance alone is no harm.",
    )


def unmeasured_distance(run: Evidence) -> Diagnosis | None:
    """No KL term, no verifier, no reward that is only looked at: nobody would notice that a reward is exploited."""
    if run.setting("kl_coef") != 0 or run.recent("accuracy") or not run.steps or 0 in run.weights.values():
        return None
    return Diagnosis(
        "unmeasured_distance",
        "info",
        "kl_coef is 0 and there is no verifier: nothing holds the policy near the reference, and how far it has gone "
        "is not measured. Where the reward is a learned model, it may be trusted further than it was trained.",
        "Give kl_coef, or a second reward with weight 0 that says what you really want: it is logged and drawn beside "
        "the one that is trained on.",
    )
