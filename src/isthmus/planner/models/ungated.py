"""Published models whose feed-forward part has two matrices, with GELU, ReLU or squared ReLU between them."""

from msgspec.structs import replace

from isthmus.planner.models.family import FOUNDRY, LITGPT, LLAMA, MODELLINK, NEMO, Dims, family
from isthmus.planner.models.known import KnownModel
from isthmus.spec.model import ModelSpec


def ungated_models() -> list[KnownModel]:
    two = KnownModel(name="", model=LLAMA, params=0, ffn_matrices=2)
    gpt = replace(two, positions="learned", linear_bias=True)
    tied = ModelSpec(tied_head=True, max_seq_len=2048)
    opt = family(
        tied,
        "eth-easl/sailor Planner/simulations; huggingface/transformers models/opt",
        [("OPT-350M", 0.331, (24, 1024, 16, 16, 4096, 50_272))],
        like=replace(gpt, embed_dim=512),
    )
    neo = family(
        tied,
        "eth-easl/sailor Planner/simulations; heads believed: 20 in the released file, 32 at Sailor",
        [("GPT-Neo-2.7B", 2.65, (32, 2560, 20, 20, 10_240, 50_257))],
        like=replace(gpt, window=256, window_every=2),
    )
    gpt3 = family(
        tied,
        f"{NEMO}/base.py",
        [
            ("GPT3-126M", 0.126, (12, 768, 12, 12, 3072, 51_200)),
            ("GPT3-5B", 5.0, (24, 4096, 32, 32, 16_384, 51_200)),
            ("GPT3-20B", 20.3, (44, 6144, 48, 48, 24_576, 51_200)),
            ("GPT3-40B", 39.1, (48, 8192, 64, 64, 32_768, 51_200)),
            ("GPT3-175B", 175.0, (96, 12_288, 96, 96, 49_152, 51_200)),
        ],
        like=gpt,
    )
    bloom = family(
        tied,
        f"{MODELLINK}/legacy/bloom",
        [
            ("Bloom-7B1", 7.07, (30, 4096, 32, 32, 16_384, 250_880)),
            ("Bloom-176B", 176.2, (70, 14_336, 112, 112, 57_344, 250_880)),
        ],
        like=replace(two, positions="alibi", linear_bias=True),
    )
    falcon = family(
        tied,
        LITGPT,
        [
            ("Falcon-7B", 7.0, (32, 4544, 71, 1, 18_176, 65_024)),
            ("Falcon-40B", 41.0, (60, 8192, 128, 8, 32_768, 65_024)),
            ("Falcon-180B", 180.0, (80, 14_848, 232, 8, 59_392, 65_024)),
        ],
        like=two,
    )
    mpt = _mpts(replace(two, positions="learned"), tied)
    return opt + neo + gpt3 + bloom + falcon + mpt + _nemotrons()


def _mpts(two: KnownModel, tied: ModelSpec) -> list[KnownModel]:
    """Heads as in the released files, which were made wider than the paper sizes for flash attention."""
    rows: list[tuple[str, float, Dims]] = [
        ("MPT-125M", 0.125, (12, 768, 12, 12, 3072, 50_368)),
        ("MPT-350M", 0.356, (24, 1024, 16, 16, 4096, 50_368)),
        ("MPT-760M", 0.761, (24, 1536, 12, 12, 6144, 50_368)),
        ("MPT-1B", 1.3, (24, 2048, 16, 16, 8192, 50_368)),
        ("MPT-3B", 2.65, (32, 2560, 20, 20, 10_240, 50_368)),
        ("MPT-7B", 6.66, (32, 4096, 32, 32, 16_384, 50_368)),
        ("MPT-13B", 12.85, (40, 5120, 40, 40, 20_480, 50_368)),
        ("MPT-30B", 29.97, (48, 7168, 56, 56, 28_672, 50_368)),
        ("MPT-70B", 64.86, (80, 8192, 64, 64, 32_768, 50_368)),
    ]
    return family(tied, FOUNDRY, rows, like=two)


def _nemotrons() -> list[KnownModel]:
    """Squared ReLU, LayerNorm, rotary embedding of half of each head, an embedding and a head of 256,000."""
    return family(
        LLAMA,
        f"{NEMO}/nemotron.py; vocabulary of nvidia/Nemotron-4-340B",
        [
            ("Nemotron-8B", 8.5, (32, 4096, 32, 32, 16_384, 256_000)),
            ("Nemotron-15B", 15.6, (32, 6144, 48, 8, 24_576, 256_000)),
            ("Nemotron-22B", 22.0, (40, 6144, 48, 48, 24_576, 256_000)),
            ("Nemotron-340B", 340.0, (96, 18_432, 96, 8, 73_728, 256_000)),
        ],
        like=KnownModel(name="", model=LLAMA, params=0, ffn_matrices=2),
    )
