"""The model, the data and the link that the rows with real processes share."""

import msgspec

from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, OuterSpec, RunSpec, TrainSpec
from isthmus.units import Count, Seconds

MODEL = ModelSpec(
    vocab_size=4096, hidden_size=192, num_layers=4, num_heads=6, num_kv_heads=2, head_dim=32, ffn_size=512
)
"""2.4M parameters: a push is 9.4 MB in fp32."""
ENDLESS = Count(10**9)
SEQ_LEN = 128
BATCH = 4
"""Sequences in an inner step of a site."""


def spec(tokens: Count = ENDLESS, **outer: object) -> RunSpec:
    """A run without evaluations and checkpoints on the way; `outer` as in run.yaml."""
    return RunSpec(
        model=MODEL,
        data=DataSpec(seq_len=SEQ_LEN),
        train=TrainSpec(
            tokens=tokens,
            batch_size=BATCH,
            precision="fp32",
            schedule="constant",
            warmup=0.0,
            eval_every=Seconds(0),
            eval_sequences=1,
            checkpoint_every=Seconds(0),
        ),
        outer=msgspec.convert({"codec": "int8", "down_codec": "int8", **outer}, OuterSpec, strict=False),
    )
