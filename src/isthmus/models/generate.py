"""Sample from a model, token by token, over a key-value cache."""

from collections.abc import Iterator, Sequence

import msgspec
import torch
from torch import Tensor

from isthmus.errors import InputError
from isthmus.models.transformer import Transformer


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens whose probabilities sum to at least this (arXiv 1904.09751)."""
    seed: int = 0


def generate(
    model: Transformer,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    eos_id: int | None = None,
) -> Iterator[int]:
    """Yield new token ids until `eos_id` (not yielded) or the limit. The same seed gives the same tokens.

    Raises InputError for an empty prompt, and for one that leaves no room within `max_seq_len`.
    """
    sampling = sampling or Sampling()
    room = model.spec.max_seq_len - len(prompt_ids)
    if not prompt_ids:
        raise InputError("the prompt is empty", hint="give at least one token, such as the end-of-text token")
    if room < 1:
        raise InputError(
            f"the prompt has {len(prompt_ids)} tokens, the model takes {model.spec.max_seq_len}",
            hint="shorten the prompt, or raise model.max_seq_len",
        )
    return _generate(model, list(prompt_ids), min(max_new_tokens, room), sampling, eos_id)


def _generate(
    model: Transformer, prompt: list[int], limit: int, sampling: Sampling, eos_id: int | None
) -> Iterator[int]:
    device = model.head_weight.device
    draws = torch.Generator().manual_seed(sampling.seed)
    cache = model.new_cache(1, len(prompt) + limit)
    feed = prompt
    for _ in range(limit):
        # Not around the yield: a generator must not leave no_grad switched on in its caller.
        with torch.no_grad():
            logits_V = model.decode(torch.tensor([feed], device=device), cache)[0]
        token = _sample(logits_V.float().cpu(), sampling, draws)
        if token == eos_id:
            return
        yield token
        feed = [token]


def _sample(logits_V: Tensor, sampling: Sampling, draws: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    probs, ids = torch.sort((logits_V / sampling.temperature).softmax(-1), descending=True, stable=True)
    before = probs.cumsum(0) - probs
    probs[before >= sampling.top_p] = 0.0
    probs[0] = probs[0].clamp(min=torch.finfo(probs.dtype).tiny)
    return int(ids[torch.multinomial(probs, 1, generator=draws)])
