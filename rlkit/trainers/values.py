"""The value model: what a prompt with the tokens so far is worth, as a head on the policy or as a model of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.adapters import base_model
from rlkit.errors import ConfigError, bad_value
from rlkit.logprobs import hidden_states
from rlkit.rewards.signatures import reward_name
from rlkit.rollout import Batch, unpack
from rlkit.trainers.scorer import RewardModel

SAVED_HEAD = "rlkit_value_head"  # attribute of a loaded value model: the head's weight [1, H] and bias [1]


class ValueModel(nn.Module):
    """V(s) = w · h(s) + b, with h the last hidden state behind the tokens of s.

    The head is float32, and zero at first: before training, everything is worth 0, and not a random number.

    Args:
        policy: the policy; where ``model`` is None its own hidden states are used, and the head is all that this module
            holds: the policy's layers learn from the value loss through them.
        model: a transformers model of the value model's own, with the policy's vocabulary; its body is used. Where it
            has a scalar head (a reward model: ``score`` with one output) or was saved as a value model
            (``load_value_model``), training begins with that head's weights.
        longest_row: tokens of the longest prompt and completion that it must read.

    Raises:
        ConfigError: the model does not fit to the policy; see ``check_value_model``.
    """

    def __init__(self, policy: Any, model: Any = None, longest_row: int = 0) -> None:
        super().__init__()
        source = policy if model is None else model
        if model is not None:
            check_value_model(model, policy)
            check_context("value_model", model, longest_row)
        self.own = model is not None
        self.model: Any = model  # None: the policy's hidden states
        size = base_model(source).config.get_text_config().hidden_size
        device = source.get_input_embeddings().weight.device
        self.head = nn.Linear(size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        score = scalar_head(model) if self.own else None
        if score is not None:
            self._take(score.weight, score.bias)
            score.requires_grad_(False)  # it has handed its weights on
        if saved := getattr(model, SAVED_HEAD, None):
            self._take(saved["weight"], saved["bias"])
        if self.own:
            self.model.eval()
            unused = base_model(model).get_output_embeddings()
            if unused is not None and unused.weight is not model.get_input_embeddings().weight:
                unused.requires_grad_(False)  # a language model's head says nothing here

    @torch.no_grad()
    def _take(self, weight: Tensor, bias: Tensor | None) -> None:
        """Begin with the head of another model: w [1, H] and b [1]."""
        if weight.shape != self.head.weight.shape:
            raise bad_value(
                "value_model", f"<a head {tuple(weight.shape)}>", str(tuple(self.head.weight.shape))
            )
        self.head.weight.copy_(weight)
        if bias is not None:
            self.head.bias.copy_(bias)

    def forward(
        self, batch: Batch, index: Tensor | Sequence[int], hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """V(s_t) before each completion token [n, T], and V behind the last one [n], of the rows ``index`` [n].

        ``hidden``: the policy's hidden states [n, W, H] of these rows (``batch.packed(index)``), which a head on the
        policy needs. 0 where the batch's mask is.
        """
        rows = torch.as_tensor(index)
        ids, attention, scored = batch.packed(rows)  # [n, W] each
        if self.own:
            hidden = hidden_states(self.model, ids, attention)  # [n, W, H]
        assert hidden is not None
        values = self.head(hidden.to(self.head.weight.dtype))[..., 0]  # [n, W]: behind each token
        before = nn.functional.pad(values, (1, 0))[:, :-1]  # [n, W]: before each token
        last = attention.sum(-1, keepdim=True) - 1  # [n, 1]
        return unpack(before, scored, batch.mask[rows]), values.gather(1, last)[:, 0]

    def trained_state(self) -> dict[str, Tensor]:
        """All that training moves: the head, and of a model of its own what is trained."""
        return {name: tensor for name, tensor in self.named_parameters() if tensor.requires_grad}

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Copy what ``trained_state`` gave into the module's own tensors.

        Raises:
            ConfigError: names or shapes are others.
        """
        here = self.trained_state()
        if {k: v.shape for k, v in here.items()} != {k: v.shape for k, v in state.items()}:
            raise ConfigError(
                "the checkpoint's value model is another one. Give the value_model that the run began with"
            )
        for name, tensor in here.items():
            tensor.copy_(state[name])


def scalar_head(model: Any) -> nn.Linear | None:
    """The head of a model of one score; None where it has no such thing."""
    score: Any = getattr(base_model(model), "score", None)
    if hasattr(score, "modules_to_save"):  # peft trains a copy beside the adapter
        score = score.modules_to_save[score.active_adapters[0]]
    return score if isinstance(score, nn.Linear) and score.out_features == 1 else None


def as_value_model(judge: RewardModel) -> Any:
    """A copy of a reward model to begin a value model with: it values a whole answer as the reward model scores it.

    The scores of ``as_reward(normalise=True)`` are (r − mean) / std; a value model that began with r would be off by
    that, for as long as its own learning rate takes.
    """
    model = copy.deepcopy(judge.model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.requires_grad_(True)  # the judge was frozen, the value model is to learn
    head = scalar_head(model)
    assert head is not None  # a RewardModel has one
    weight = head.weight.detach().float()  # [1, H]
    bias = torch.zeros(1, device=weight.device) if head.bias is None else head.bias.detach().float()  # [1]
    setattr(model, SAVED_HEAD, {"weight": weight / judge.std, "bias": (bias - judge.mean) / judge.std})
    return model


def check_value_model(model: Any, policy: Any) -> None:
    """Refuse a value model that cannot read the policy's tokens.

    Raises:
        ConfigError: it is no transformers model, is the policy itself, shares tensors with it, lies on another device
            or has another vocabulary.
    """
    check_companion("value_model", model, policy, "value_model=None puts a head on the policy.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "value_model has no trainable parameter: requires_grad is False everywhere. Was it frozen? "
            "value_model.requires_grad_(True) makes all of it trainable"
        )


def check_reference_model(model: Any, policy: Any, value_model: Any = None) -> None:
    """Refuse a reference policy that is of another architecture, reads other tokens, or is trained as something else.

    Raises:
        ConfigError: as for a value model; or another ``model_type``; no language model; weights that the value model
            has too.
    """
    check_companion("ref_model", model, policy, "ref_model=None takes the policy as it is now.")
    if value_model is not None and shares_weights(model, value_model):
        cause = (
            "It shares weights with value_model, which is trained. copy.deepcopy(…) makes a model of its own."
        )
        raise bad_value("ref_model", f"<{type(model).__name__}>", "a model of its own, or None", cause)
    if base_model(model).get_output_embeddings() is None:
        cause = "It has no probabilities of tokens to compare with."
        raise bad_value("ref_model", f"<{type(model).__name__}>", "a causal LM", cause)
    theirs, ours = (base_model(each).config.model_type for each in (model, policy))
    if theirs != ours:
        raise bad_value(
            "ref_model",
            f"<a {theirs} model>",
            f"a model of the policy's architecture, {ours}",
            "The reference is the policy as it was before RL; the same token ids mean something else to another model.",
        )


def check_not_judging(model: Any, reward_funcs: Sequence[Any], name: str = "value_model") -> None:
    """Refuse a model that is trained here and judges at the same time: what is rewarded would drift unseen.

    Raises:
        ConfigError: a reward function's ``model`` shares tensors with it.
    """
    for function in reward_funcs:
        judge = getattr(function, "model", None)
        if isinstance(judge, nn.Module) and shares_weights(judge, model):
            raise bad_value(
                name,
                f"<{type(model).__name__}>",
                "a model of its own",
                f"It shares weights with the reward function {reward_name(function)!r}, which would change while it "
                "judges. Give the RewardModel itself: a copy of it is trained.",
            )


def check_companion(name: str, model: Any, policy: Any, advice: str) -> None:
    """What a model beside the policy must be: a transformers model of its own, with the same vocabulary, near it."""
    if not all(hasattr(model, attribute) for attribute in ("config", "get_input_embeddings", "parameters")):
        raise bad_value(name, f"<{type(model).__name__}>", "a transformers model, or None", advice)
    if shares_weights(model, policy):
        raise bad_value(
            name,
            f"<{type(model).__name__}>",
            "a model of its own, or None",
            f"It shares weights with the policy and would change with it. {advice}",
        )
    theirs, wanted = (each.get_input_embeddings().weight.shape[0] for each in (model, policy))
    if theirs != wanted:
        raise bad_value(
            name,
            f"<a vocabulary of {theirs} tokens>",
            f"a model with the policy's vocabulary of {wanted}",
            "Both read the same token ids: is it of another model family?",
        )
    place, here = (each.get_input_embeddings().weight.device for each in (model, policy))
    if place != here:
        raise bad_value(name, f"<on {place}>", f"a model on {here}, where the policy is")


def check_context(name: str, model: Any, longest_row: int) -> None:
    """Refuse a model that cannot read the longest prompt with its completion.

    Raises:
        ConfigError: with both lengths.
    """
    context = getattr(base_model(model).config.get_text_config(), "max_position_embeddings", None)
    if context and context < longest_row:
        raise bad_value(
            name,
            f"<reads {context} tokens at most>",
            f"one that reads prompt and completion, {longest_row} tokens",
            "Lower max_completion_length, or take a model with a longer context.",
        )


@torch.no_grad()
def check_finite(name: str, model: Any, token_ids: Sequence[int]) -> None:
    """Refuse a model whose hidden states are not finite on a few tokens.

    Raises:
        ConfigError: saying what the cause may be.
    """
    ids = torch.tensor([list(token_ids)], device=model.get_input_embeddings().weight.device)  # [1, L]
    states = hidden_states(model, ids, torch.ones_like(ids))  # [1, L, H]
    if not bool(torch.isfinite(states).all()):
        cause = "Is its file damaged, or is it in float16? load_model(…, dtype='float32')"
        raise bad_value(
            name, f"<{type(model).__name__} that gives nan>", "a model that gives finite numbers", cause
        )


def shares_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether a parameter of the one lies where a parameter of the other does."""
    places = {parameter.data_ptr() for parameter in one.parameters() if parameter.numel()}
    return any(parameter.data_ptr() in places for parameter in other.parameters() if parameter.numel())
