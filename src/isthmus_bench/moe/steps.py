"""A small MoE's whole training step, ours and that of transformers: one step of AdamW on int32[B, T + 1]."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

BATCH, SEQ_LEN, VOCAB = 8, 256, 4096
HIDDEN, LAYERS, HEADS, HEAD_DIM, FFN, EXPERTS, TOP_K = 256, 4, 4, 64, 512, 8, 2
LEARNING_RATE = 1e-3
HF_SETTINGS = {
    "fp32": ("grouped_mm", "eager"),
    "bf16": ("grouped_mm,autocast", "eager,autocast", "grouped_mm,weights", "eager,weights"),
}
"""Of transformers, of which the fastest counts: implementation of the experts, and what is bf16."""
Step = Callable[[np.ndarray], None]


def build(name: str, device: str) -> Step:
    """`name`: isthmus:PRECISION or hf:SETTING."""
    kind, setting = name.split(":")
    return ours(setting, device) if kind == "isthmus" else mixtral(setting, device)


def ours(precision: str, device: str) -> Step:
    from isthmus.comm.collective import SoloCollective
    from isthmus.models.init import init_weights
    from isthmus.models.transformer import Transformer
    from isthmus.spec.model import ModelSpec
    from isthmus.spec.run import TrainSpec
    from isthmus.train.learner import Learner

    spec = ModelSpec(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, num_kv_heads=HEADS,
        head_dim=HEAD_DIM, ffn_size=FFN, num_experts=EXPERTS, top_k=TOP_K, max_seq_len=SEQ_LEN,
    )  # fmt: skip
    model = Transformer(spec, torch.bfloat16 if precision == "bf16" else torch.float32)
    init_weights(model, 0)
    learner = Learner(model.to(device), TrainSpec(), SoloCollective(), BATCH)

    def step(tokens: np.ndarray) -> None:
        learner.step((tokens, np.zeros_like(tokens)), LEARNING_RATE)

    return step


def mixtral(setting: str, device: str) -> Step:
    """The same shape in transformers, with our optimizer."""
    from transformers import MixtralConfig, MixtralForCausalLM

    from isthmus.spec.run import TrainSpec
    from isthmus.train.optimizer import clip_gradients, make_optimizer

    implementation, _, bf16 = setting.partition(",")
    config = MixtralConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, head_dim=HEAD_DIM, intermediate_size=FFN, num_local_experts=EXPERTS,
        num_experts_per_tok=TOP_K, max_position_embeddings=SEQ_LEN, sliding_window=None,
        tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    config._experts_implementation = implementation
    torch.manual_seed(0)
    model: Any = MixtralForCausalLM(config)
    model.to(device=device, dtype=torch.bfloat16 if bf16 == "weights" else torch.float32)
    spec = TrainSpec()
    optimizer = make_optimizer(spec, model.named_parameters())
    parameters = list(model.parameters())

    def step(tokens: np.ndarray) -> None:
        window = torch.from_numpy(tokens[:, 1:]).long().to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16 == "autocast"):
            loss = model(input_ids=window, labels=window).loss
        loss.backward()
        clip_gradients(parameters, spec.grad_clip)
        optimizer.step(LEARNING_RATE)
        for parameter in parameters:
            parameter.grad = None

    return step
