"""Messages to token ids: the only place where text becomes the tokens that are trained on.

The prompt is rendered once; every observation is rendered on its own and appended. Nothing that
was sampled is ever decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wfr.trajectory import Message

_MARK = "\u2063wfr\u2063"  # invisible separators: no template and no dataset contains them


class Renderer:
    """Renders with the tokenizer's own chat template.

    Example: with a Qwen2.5 template, the observation `<info>x</info>` after a turn that stopped at
    `</tool>` becomes `<|im_end|>`, a user turn that holds the `<tool_response>`, and the opening of
    the next assistant turn.
    """

    def __init__(self, path: str | Path) -> None:
        """Load the tokenizer in `path`; raises ValueError where it has no chat template."""
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path))
        if not self.tokenizer.chat_template:
            raise ValueError(f"{path}: the tokenizer has no chat template")
        self._eos = self.tokenizer.eos_token or ""
        self.eos_id: int | None = self.tokenizer.eos_token_id

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt, ready for the first turn of the policy."""
        return self._encode(self._template(messages))

    def observation(self, messages: Sequence[Message], *, ended_by_eos: bool) -> list[int]:
        """Token ids between two turns: the end of the last one, the messages, the next opening."""
        before = [Message("user", "u"), Message("assistant", _MARK)]
        _, mark, after = self._template([*before, *messages]).partition(_MARK)
        assert mark, "the chat template dropped the assistant's text"
        if ended_by_eos:
            after = after.removeprefix(self._eos)
        return self._encode(after)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode one turn for the environment to read."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False)).removesuffix(
            self._eos
        )

    def _template(self, messages: Sequence[Message]) -> str:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        return str(
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        )

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))
