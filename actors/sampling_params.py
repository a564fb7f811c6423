"""A request in vLLM's terms."""

from __future__ import annotations

from typing import Any

from wfr.protocols import SamplingRequest


def sampling_params(request: SamplingRequest, *, streamed: bool) -> Any:
    """The parameters of `request`; `streamed`: each output holds what is new, else the last all.

    Stop strings and special tokens stay in the text, and log-probabilities are those of the
    sampled tokens alone.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=list(request.stop),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY,
    )
