"""The value model: what a prompt with the tokens so far is worth, as a head on the policy or as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlkit.adapters import base_model
from rlkit.errors import ConfigError, bad_value
from rlkit.logprobs import hidden_states
from rlkit.rewards.signatures import reward_name
from rlkit.rollout import Batch, unpack


class ValueModel(nn.Module):
    """V(s) = w · h(s) + b, with h the last hidden state behind the tokens of s.

    The head is float32, and zero at first: before training, everything is worth 0, and not a random number.

    Args:
        policy: the policy; where ``model`` is None its own hidden states are used, and the head is all that this module
            holds: the policy's layers learn from the value loss through them.
        model: a transformers model of the value model's own, with the policy's vocabulary; its body is used. Where it
            has a scalar head (a reward model: ``score`` with one output), training begins with that head's weights.
        longest_row: tokens of the longest prompt and completion that it must read.

    Raises:
        ConfigError: the model does not fit to the policy; see ``check_value_model``.
    """

    def __init__(self, policy: Any, model: Any = None, longest_row: int = 0) -> None:
        super().__init__()
        source = policy if model is None else model
        if model is not None:
            check_value_model(model, policy)
            context = getattr(base_model(model).config.get_text_config(), "max_position_embeddings", None)
            if context and context < longest_row:
                raise bad_value(
                    "value_model",
                    f"<reads {context} tokens at most>",
                    f"one that reads prompt and completion, {longest_row} tokens",
                    "Lower max_completion_length, or take a model with a longer context.",
                )
        self.own = model is not None
        self.model: Any = model  # None: the policy's hidden states
        size = base_model(source).config.get_text_config().hidden_size
        device = source.get_input_embeddings().weight.device
        self.head = nn.Linear(size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        score = getattr(base_model(source), "score", None) if self.own else None
        if hasattr(score, "modules_to_save"):  # peft trains a copy beside the adapter
            score = score.modules_to_save[score.active_adapters[0]]
        if isinstance(score, nn.Linear) and score.out_features == 1:
            with torch.no_grad():
                self.head.weight.copy_(score.weight)
                if score.bias is not None:
                    self.head.bias.copy_(score.bias)
            score.requires_grad_(False)  # it has handed its weights on
        if self.own:
            self.model.eval()
            unused = base_model(model).get_output_embeddings()
            if unused is not None and unused.weight is not model.get_input_embeddings().weight:
                unused.requires_grad_(False)  # a language model's head says nothing here

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
        values = self.head(hidden.float())[..., 0]  # [n, W]: behind each token
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


def check_reference_model(model: Any, policy: Any) -> None:
    """Refuse a reference policy that is of another architecture, or reads other tokens.

    Raises:
        ConfigError: as for a value model; or another ``model_type``.
    """
    check_companion("ref_model", model, policy, "ref_model=None takes the policy as it is now.")
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
    ours = {parameter.data_ptr() for parameter in model.parameters()}
    for function in reward_funcs:
        judge = getattr(function, "model", None)
        if isinstance(judge, nn.Module) and any(weight.data_ptr() in ours for weight in judge.parameters()):
            raise bad_value(
                name,
                f"<{type(model).__name__}>",
                "a model of its own",
                f"It shares weights with the reward function {reward_name(function)!r}, which would change while it "
                "judges. copy.deepcopy(…) makes a model of its own.",
            )


def check_companion(name: str, model: Any, policy: Any, advice: str) -> None:
    """What a model beside the policy must be: a transformers model of its own, with the same vocabulary, near it."""
    if not all(hasattr(model, attribute) for attribute in ("config", "get_input_embeddings", "parameters")):
        raise bad_value(name, f"<{type(model).__name__}>", "a transformers model, or None", advice)
    ours = {parameter.data_ptr() for parameter in policy.parameters()}
    if any(parameter.data_ptr() in ours for parameter in model.parameters()):
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
