"""The policy: a causal language model that scores the policy tokens of a packed micro-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learner.attention import IMPLEMENTATIONS, AttentionKind, Blocks
from learner.logprobs import token_logprobs


class ScoringHead(nn.Linear):
    """A language-model head that can also score targets without making all logits.

    It stands in for the model's own `lm_head` and shares its weight, so names in checkpoints stay
    the same, tied embeddings stay tied, and DeepSpeed's hooks gather the weight when it is used.
    """

    def __init__(self, head: nn.Linear) -> None:
        """Take over the weight of `head`; raises ValueError if it has a bias."""
        if head.bias is not None:
            raise ValueError("the language-model head has a bias, which scoring does not support")
        super().__init__(head.in_features, head.out_features, bias=False, device="meta")
        self.weight = head.weight

    def forward(
        self, input: Tensor, targets: Tensor | None = None, temperature: float = 1.0
    ) -> Any:
        """Logits of `input`; with `targets`, their (log-probabilities, entropies) instead."""
        if targets is None:
            return super().forward(input)
        return token_logprobs(input, self.weight, targets, temperature=temperature)


class Policy(nn.Module):
    """A transformers causal language model as the policy of the objectives."""

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 1.0,
        attention: AttentionKind = "sdpa",
        checkpointing: bool = False,
    ) -> None:
        """Wrap `model`, a decoder with a linear `lm_head`, sampled at `temperature`.

        From here on the model attends inside packed trajectories only (`learner.attention`).
        With `checkpointing` its layers keep their inputs only and run again in the backward pass.
        """
        super().__init__()
        model.set_attn_implementation(IMPLEMENTATIONS[attention])
        model.lm_head = ScoringHead(model.lm_head)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model
        self.temperature = temperature

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, turn_id: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score the policy tokens of a packed micro-batch, all int64 [T].

        Returns:
            (log-probabilities, entropies), float32 [T]: of token t given the tokens before it in
            its own trajectory; 0 where `turn_id` is −1.
        """
        self.train(torch.is_grad_enabled())  # dropout and checkpointing belong to gradients alone
        states = self.model.base_model(
            input_ids=input_ids[None],
            position_ids=position_ids[None],
            use_cache=False,
            blocks=Blocks.of(position_ids),
        ).last_hidden_state[0]
        scored = torch.nonzero(turn_id >= 0)[:, 0]
        logp, entropy = self.model.lm_head(
            states[scored - 1], input_ids[scored], temperature=self.temperature
        )
        blank = logp.new_zeros(len(input_ids))
        return blank.index_put((scored,), logp), blank.index_put((scored,), entropy)
