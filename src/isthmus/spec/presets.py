"""Model shapes by name: from one that trains in seconds on a CPU to the largest that is only planned for."""

from msgspec.structs import replace

from isthmus.spec.model import ModelSpec

TINY = ModelSpec()
TINY_MOE = ModelSpec(
    vocab_size=2048, num_experts=8, top_k=2, expert_ffn_size=192, tied_head=True, max_seq_len=1024
)
SMALL = ModelSpec(
    vocab_size=16_384,
    hidden_size=512,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    ffn_size=1408,
)
LLAMA_3_8B = ModelSpec(
    vocab_size=128_256,
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_size=14_336,
    tied_head=False,
    rope_theta=500_000.0,
    max_seq_len=8192,
)
MIXTRAL_8X7B = replace(
    LLAMA_3_8B, vocab_size=32_000, num_experts=8, top_k=2, rope_theta=1_000_000.0, max_seq_len=32_768
)
QWEN3_30B_A3B = ModelSpec(
    vocab_size=151_936,
    hidden_size=2048,
    num_layers=48,
    num_heads=32,
    num_kv_heads=4,
    head_dim=128,
    ffn_size=6144,
    num_experts=128,
    top_k=8,
    expert_ffn_size=768,
    qk_norm="head",
    tied_head=False,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    max_seq_len=40_960,
)
SKYWORK_13B = ModelSpec(
    vocab_size=65_536,
    hidden_size=4608,
    num_layers=52,
    num_heads=36,
    num_kv_heads=36,
    head_dim=128,
    ffn_size=12_288,
    tied_head=False,
    max_seq_len=4096,
)
SKYWORK_MOE_146B = replace(
    SKYWORK_13B, num_experts=16, top_k=2, gate_norm=1.0, max_seq_len=8192
)  # arXiv 2406.06563, table 2

presets: dict[str, ModelSpec] = {
    "tiny": TINY,
    "tiny-moe": TINY_MOE,
    "small": SMALL,
    "small-moe": replace(SMALL, num_experts=8, top_k=2, expert_ffn_size=704),
    "llama-3-8b": LLAMA_3_8B,
    "llama-3-70b": replace(
        LLAMA_3_8B, hidden_size=8192, num_layers=80, num_heads=64, num_kv_heads=8, ffn_size=28_672
    ),
    "mixtral-8x7b": MIXTRAL_8X7B,
    "qwen3-30b-a3b": QWEN3_30B_A3B,
    "skywork-13b": SKYWORK_13B,
    "skywork-moe-146b": SKYWORK_MOE_146B,
}
