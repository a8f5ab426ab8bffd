"""Published models with a gated feed-forward part, family by family.

Layers, widths and heads are those of the sources named. Vocabularies are too, but for most of ModelLink's
rows, whose scripts leave them to the tokenizer: there they are believed, as of the released tokenizer.
`rope_theta`, `norm_eps` and `max_seq_len`, on which no cost depends here, are those of the family and not of
each model.
"""

from msgspec.structs import replace

from isthmus.planner.models.family import (
    LITGPT,
    LLAMA,
    LLAMA3,
    MODELLINK,
    MODELOPT,
    NEMO,
    QWEN,
    QWEN3,
    aliased,
    family,
)
from isthmus.planner.models.known import KnownModel


def _llamas() -> list[KnownModel]:
    first = family(
        replace(LLAMA, max_seq_len=2048),
        f"{MODELLINK}/legacy/llama; arXiv 2302.13971, table 2",
        [
            ("LLaMA-7B", 6.7, (32, 4096, 32, 32, 11_008, 32_000)),
            ("LLaMA-13B", 13.0, (40, 5120, 40, 40, 13_824, 32_000)),
            ("LLaMA-33B", 32.5, (60, 6656, 52, 52, 17_920, 32_000)),
            ("LLaMA-65B", 65.2, (80, 8192, 64, 64, 22_016, 32_000)),
        ],
    )
    second = family(
        LLAMA,
        f"{LITGPT}; 34B: {MODELLINK}/legacy/llama2",
        [
            ("LLaMA2-7B", 6.74, (32, 4096, 32, 32, 11_008, 32_000)),
            ("LLaMA2-13B", 13.02, (40, 5120, 40, 40, 13_824, 32_000)),
            ("LLaMA2-34B", 33.7, (48, 8192, 64, 8, 22_016, 32_000)),
            ("LLaMA2-70B", 68.98, (80, 8192, 64, 8, 28_672, 32_000)),
        ],
    )
    code = family(
        replace(LLAMA, rope_theta=1_000_000.0, max_seq_len=16_384),
        LITGPT,
        [
            ("CodeLlama-7B", 6.74, (32, 4096, 32, 32, 11_008, 32_016)),
            ("CodeLlama-13B", 13.02, (40, 5120, 40, 40, 13_824, 32_016)),
            ("CodeLlama-34B", 33.7, (48, 8192, 64, 8, 22_016, 32_000)),
            ("CodeLlama-70B", 68.98, (80, 8192, 64, 8, 28_672, 32_016)),
        ],
    )
    third = family(
        LLAMA3,
        LITGPT,
        [
            ("Llama3-8B", 8.03, (32, 4096, 32, 8, 14_336, 128_256)),
            ("Llama3-70B", 70.55, (80, 8192, 64, 8, 28_672, 128_256)),
            ("Llama3-405B", 405.85, (126, 16_384, 128, 8, 53_248, 128_256)),
        ],
    )
    small = family(
        replace(LLAMA3, tied_head=True),
        LITGPT,
        [
            ("Llama3.2-1B", 1.24, (16, 2048, 32, 8, 8192, 128_256)),
            ("Llama3.2-3B", 3.21, (28, 3072, 24, 8, 8192, 128_256)),
        ],
    )
    aliases = {f"Llama3-{size}": [f"Llama3.1-{size}", f"Llama3.3-{size}"] for size in ("8B", "70B", "405B")}
    return first + second + code + aliased(third, aliases) + small


def _llama4s() -> list[KnownModel]:
    """The text part. A shared expert beside the routed one."""
    base = replace(
        LLAMA3,
        num_experts=16,
        top_k=1,
        expert_ffn_size=8192,
        shared_ffn_size=8192,
        router_score="sigmoid",
        renormalize=False,
        max_seq_len=1_048_576,
    )
    dims = (48, 5120, 40, 8, 16_384, 202_048)
    large = replace(base, num_experts=128, first_moe_layer=1, moe_every=2)
    source = "pytorch/torchtitan v0.2.2 torchtitan/models/llama4; NVIDIA/NeMo llama.py"
    return [
        *family(base, source, [("Llama4-Scout-17B-16E", 109.0, dims)]),
        *family(large, source, [("Llama4-Maverick-17B-128E", 400.0, dims)]),
    ]


def _mistrals() -> list[KnownModel]:
    experts = replace(LLAMA, num_experts=8, top_k=2, rope_theta=1_000_000.0, max_seq_len=32_768)
    return family(
        replace(LLAMA, max_seq_len=32_768),
        LITGPT,
        [("Mistral-7B", 7.24, (32, 4096, 32, 8, 14_336, 32_000))],
    ) + family(
        experts,
        LITGPT,
        [
            ("Mixtral-8x7B", 46.7, (32, 4096, 32, 8, 14_336, 32_000)),
            ("Mixtral-8x22B", 140.6, (56, 6144, 48, 8, 16_384, 32_768)),
        ],
    )


def _qwens() -> list[KnownModel]:
    first = family(
        QWEN,
        f"{MODELLINK}/legacy/qwen, qwen15; Qwen1.5-110B: mcore/qwen15; Qwen2.5: {NEMO}/qwen2.py",
        [
            ("Qwen-7B", 7.72, (32, 4096, 32, 32, 11_008, 151_936)),
            ("Qwen-14B", 14.17, (40, 5120, 40, 40, 13_696, 152_064)),
            ("Qwen-72B", 72.29, (80, 8192, 64, 64, 24_576, 152_064)),
            ("Qwen1.5-1.8B", 1.84, (24, 2048, 16, 16, 5504, 151_936)),
            ("Qwen1.5-4B", 3.95, (40, 2560, 20, 20, 6912, 151_936)),
            ("Qwen1.5-7B", 7.72, (32, 4096, 32, 32, 11_008, 151_936)),
            ("Qwen1.5-14B", 14.17, (40, 5120, 40, 40, 13_696, 152_064)),
            ("Qwen1.5-32B", 32.5, (64, 5120, 40, 8, 27_392, 152_064)),
            ("Qwen1.5-72B", 72.29, (80, 8192, 64, 64, 24_576, 152_064)),
            ("Qwen1.5-110B", 111.2, (80, 8192, 64, 8, 49_152, 152_064)),
            ("Qwen2.5-7B", 7.61, (28, 3584, 28, 4, 18_944, 152_064)),
            ("Qwen2.5-14B", 14.7, (48, 5120, 40, 8, 13_824, 152_064)),
            ("Qwen2.5-32B", 32.5, (64, 5120, 40, 8, 27_648, 152_064)),
            ("Qwen2.5-72B", 72.7, (80, 8192, 64, 8, 29_568, 152_064)),
        ],
    )
    small = family(
        replace(QWEN, tied_head=True),
        f"{LITGPT}; {NEMO}/qwen2.py; Qwen1.5: {MODELLINK}/legacy/qwen15",
        [
            ("Qwen1.5-0.5B", 0.464, (24, 1024, 16, 16, 2816, 151_936)),
            ("Qwen2.5-0.5B", 0.49, (24, 896, 14, 2, 4864, 151_936)),
            ("Qwen2.5-1.5B", 1.54, (28, 1536, 12, 2, 8960, 151_936)),
            ("Qwen2.5-3B", 3.09, (36, 2048, 16, 2, 11_008, 151_936)),
        ],
    )
    experts = replace(QWEN, num_experts=64, top_k=8, expert_ffn_size=2560, shared_ffn_size=20_480)
    mixed = family(
        experts,
        f"{MODELLINK}/mcore/qwen2_moe",
        [("Qwen2-57B-A14B", 57.4, (28, 3584, 28, 4, 18_944, 151_936))],
    )
    sizes = ("0.5B", "1.5B", "7B", "72B")
    return aliased(first + small, {f"Qwen2.5-{size}": [f"Qwen2-{size}"] for size in sizes}) + mixed


def _qwen3s() -> list[KnownModel]:
    tied = family(
        replace(QWEN3, tied_head=True),
        LITGPT,
        [
            ("Qwen3-0.6B", 0.6, (28, 1024, 16, 8, 3072, 151_936, 128)),
            ("Qwen3-1.7B", 1.72, (28, 2048, 16, 8, 6144, 151_936, 128)),
            ("Qwen3-4B", 4.02, (36, 2560, 32, 8, 9728, 151_936, 128)),
        ],
    )
    dense = family(
        QWEN3,
        LITGPT,
        [
            ("Qwen3-8B", 8.19, (36, 4096, 32, 8, 12_288, 151_936, 128)),
            ("Qwen3-14B", 14.8, (40, 5120, 40, 8, 17_408, 151_936, 128)),
            ("Qwen3-32B", 32.8, (64, 5120, 64, 8, 25_600, 151_936, 128)),
        ],
    )
    experts = replace(QWEN3, num_experts=128, top_k=8, expert_ffn_size=768)
    small = [("Qwen3-30B-A3B", 30.5, (48, 2048, 32, 4, 6144, 151_936, 128))]
    large = [("Qwen3-235B-A22B", 235.0, (94, 4096, 64, 4, 12_288, 151_936, 128))]
    source = f"{LITGPT}; {MODELOPT}/Qwen"
    return [
        *tied,
        *dense,
        *family(experts, source, small),
        *family(replace(experts, expert_ffn_size=1536), source, large),
    ]


def _chinese() -> list[KnownModel]:
    plain = family(
        LLAMA,
        f"{MODELLINK}/legacy/baichuan, baichuan2, aquila, aquila2, yi",
        [
            ("Baichuan-7B", 7.0, (32, 4096, 32, 32, 11_008, 64_000)),
            ("Baichuan2-7B", 7.5, (32, 4096, 32, 32, 11_008, 125_696)),
            ("Yi-34B", 34.4, (60, 7168, 56, 8, 20_480, 64_000)),
            ("Aquila-7B", 7.3, (32, 4096, 32, 32, 11_008, 100_008)),
            ("Aquila2-7B", 7.3, (32, 4096, 32, 32, 11_008, 100_008)),
            ("Aquila2-34B", 34.0, (60, 6144, 48, 8, 24_576, 100_008)),
        ],
    )
    alibi = KnownModel(name="", model=LLAMA, params=0, positions="alibi")
    sloped = family(
        LLAMA,
        f"{MODELLINK}/legacy/baichuan, baichuan2",
        [
            ("Baichuan-13B", 13.26, (40, 5120, 40, 40, 13_696, 64_000)),
            ("Baichuan2-13B", 13.9, (40, 5120, 40, 40, 13_696, 125_696)),
        ],
        like=alibi,
    )
    interns = family(
        replace(LLAMA, qkv_bias=True, max_seq_len=2048),
        f"InternLM/InternEvo configs/_base_/models; {MODELLINK}/legacy/intern (65B: vocabulary as of 7B)",
        [
            ("InternLM-7B", 7.3, (32, 4096, 32, 32, 11_008, 103_168)),
            ("InternLM-65B", 65.0, (80, 8192, 64, 64, 22_016, 103_168)),
        ],
    )
    later = family(
        replace(LLAMA, norm_eps=1e-6),
        f"InternLM/InternEvo configs/_base_/models; {MODELLINK}/mcore/internlm2",
        [
            ("InternLM-20B", 20.1, (60, 5120, 40, 40, 13_824, 103_168)),
            ("InternLM2-20B", 19.9, (48, 6144, 48, 8, 16_384, 92_544)),
        ],
    )
    glm = family(
        replace(LLAMA, qkv_bias=True, max_seq_len=8192),
        f"{MODELLINK}/mcore/chatglm3, glm4",
        [
            ("ChatGLM3-6B", 6.24, (28, 4096, 32, 2, 13_696, 65_024)),
            ("GLM4-9B", 9.4, (40, 4096, 32, 2, 13_696, 151_552)),
        ],
    )
    return plain + sloped + interns + later + aliased(glm, {"ChatGLM3-6B": ["ChatGLM2-6B"]})


def gated_models() -> list[KnownModel]:
    families = (_llamas, _llama4s, _mistrals, _qwens, _qwen3s, _chinese)
    return [model for family in families for model in family()]
