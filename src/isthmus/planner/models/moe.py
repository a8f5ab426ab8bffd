"""Published Mixture-of-Experts models, besides those of a dense family (`gated`)."""

from msgspec.structs import replace

from isthmus.planner.models.family import LLAMA, MODELOPT, NEMO, aliased, family
from isthmus.planner.models.known import KnownModel, LatentAttention


def mixtures() -> list[KnownModel]:
    grok = family(
        replace(LLAMA, tied_head=True, num_experts=8, top_k=2, max_seq_len=8192),
        "xai-org/grok-1 run.py",
        [("Grok1", 314.0, (64, 6144, 48, 8, 32_768, 131_072))],
    )
    oss = replace(LLAMA, qkv_bias=True, num_experts=128, top_k=4, rope_theta=150_000.0, max_seq_len=131_072)
    windows = KnownModel(name="", model=oss, params=0, window=128, window_every=2, linear_bias=True)
    source = f"{MODELOPT}/openai"
    large = [("GPT-OSS-120B", 116.8, (36, 2880, 64, 8, 2880, 201_088, 64))]
    small = [("GPT-OSS-20B", 20.9, (24, 2880, 64, 8, 2880, 201_088, 64))]
    glm = replace(
        LLAMA,
        qkv_bias=True,
        qk_norm="head",
        num_experts=160,
        top_k=8,
        expert_ffn_size=1536,
        shared_ffn_size=1536,
        first_moe_layer=3,
        router_score="sigmoid",
        router_bias=True,
        route_scale=2.5,
        rope_theta=1_000_000.0,
        max_seq_len=131_072,
    )
    return [
        *grok,
        *family(oss, source, large, like=windows),
        *family(replace(oss, num_experts=32), source, small, like=windows),
        *family(
            glm,
            "zyzshishui/slime scripts/models/glm4.5-355B-A32B.sh",
            [("GLM4.5-355B-A32B", 355.0, (92, 5120, 96, 8, 12_288, 151_552, 128))],
            like=KnownModel(name="", model=glm, params=0, predict_layers=1),
        ),
        *_skyworks(),
        *_latent(),
    ]


def _skyworks() -> list[KnownModel]:
    moe = replace(LLAMA, num_experts=16, top_k=2, gate_norm=1.0, max_seq_len=8192)
    dims = (52, 4608, 36, 36, 12_288, 65_536)
    named = family(moe, "arXiv 2406.06563, table 2", [("Skywork-MoE-146B-A22B", 146.0, dims)])
    aliases = {"Skywork-MoE-146B-A22B": ["Skywork-MoE", "Skywork-MoE-146B"]}
    return aliased(named, aliases) + family(LLAMA, "arXiv 2310.19341", [("Skywork-13B", 13.9, dims)])


def _latent() -> list[KnownModel]:
    third = replace(
        LLAMA,
        num_experts=256,
        top_k=8,
        expert_ffn_size=2048,
        shared_ffn_size=2048,
        first_moe_layer=3,
        router_score="sigmoid",
        router_bias=True,
        route_scale=2.5,
        norm_eps=1e-6,
        max_seq_len=163_840,
    )
    second = replace(
        third,
        num_experts=160,
        top_k=6,
        expert_ffn_size=1536,
        shared_ffn_size=3072,
        first_moe_layer=1,
        router_score="softmax",
        router_bias=False,
        renormalize=False,
        route_scale=16.0,
    )
    lite = replace(second, num_experts=64, expert_ffn_size=1408, shared_ffn_size=2816, route_scale=1.0)
    kimi = replace(third, num_experts=384, first_moe_layer=1, route_scale=2.827, rope_theta=50_000.0)
    attention = LatentAttention(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
    like = KnownModel(name="", model=third, params=0, latent=attention)
    v3 = [("DeepSeek-V3", 671.0, (61, 7168, 128, 128, 18_432, 129_280, 128))]
    v2 = [("DeepSeek-V2", 236.0, (60, 5120, 128, 128, 12_288, 102_400, 128))]
    v2_lite = [("DeepSeek-V2-Lite", 15.7, (27, 2048, 16, 16, 10_944, 102_400, 128))]
    k2 = [("Kimi-K2", 1026.0, (61, 7168, 64, 64, 18_432, 163_840, 128))]
    pangu = [("Pangu-Ultra-MoE-718B", 718.0, (61, 7680, 128, 128, 18_432, 153_600, 128))]
    models = [
        *family(third, f"{NEMO}/deepseek.py; {MODELOPT}/deepseek-ai", v3, replace(like, predict_layers=1)),
        *family(second, f"{NEMO}/deepseek.py", v2, like),
        *family(lite, f"{NEMO}/deepseek.py", v2_lite, replace(like, latent=replace(attention, q_rank=0))),
        *family(kimi, f"{MODELOPT}/moonshotai", k2, like),
        *family(third, "openPangu-Ultra-MoE configuration_openpangu_moe.py", pangu, like),
    ]
    aliases = {
        "DeepSeek-V3": ["DeepSeek-V3-671B", "DeepSeek-R1"],
        "DeepSeek-V2": ["DeepSeek-V2-236B"],
        "DeepSeek-V2-Lite": ["DeepSeek-V2-Lite-16B"],
        "Kimi-K2": ["Kimi-K2-1T"],
        "Pangu-Ultra-MoE-718B": ["Pangu-Ultra-MoE", "openPangu-Ultra-MoE-718B"],
    }
    return aliased(models, aliases)
