"""Published models: parameter counts follow from dimensions, names are found as people write them."""

import pytest

from isthmus.planner.models.catalogue import find_model, known_models
from isthmus.planner.models.known import KnownModel, LatentAttention
from isthmus.spec.count import count_params
from isthmus.spec.presets import presets

NOMINAL = {"Nemotron-22B"}
"""Known by a rounder name than 3 % allows."""


@pytest.mark.parametrize("known", known_models(), ids=lambda known: known.name)
def test_the_count_is_the_published_one(known: KnownModel):
    allowed = 0.04 if known.name in NOMINAL else 0.03
    assert known.num_params == pytest.approx(known.params, rel=allowed)
    assert known.source
    assert known.model.num_heads % known.model.num_kv_heads == 0


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("LLAMA3_70B", "Llama3-70B"),
        ("LLAMA3.1_405B", "Llama3-405B"),
        ("Llama-3.1-70B", "Llama3-70B"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama3-8B"),
        ("meta-llama/Llama-2-70b-hf", "LLaMA2-70B"),
        ("DeepSeekV3", "DeepSeek-V3"),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", "DeepSeek-V2-Lite"),
        ("Qwen3_30B_a3B", "Qwen3-30B-A3B"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B"),
        ("GPT OSS 120B", "GPT-OSS-120B"),
        ("Kimi_K2", "Kimi-K2"),
        ("MPT-1b", "MPT-1B"),
        ("Mixtral-8x7B-v0.1", "Mixtral-8x7B"),
        ("Skywork-MoE", "Skywork-MoE-146B-A22B"),
        ("Bloom-7B1", "Bloom-7B1"),
    ],
)
def test_a_name_is_found_however_it_is_written(written: str, name: str):
    known = find_model(written)
    assert known is not None
    assert known.name == name


@pytest.mark.parametrize("name", ["", "LLaMA", "Llama-3-71B", "DeepSeekV4 Flash", "Nemotron_3_Super"])
def test_what_is_not_known_is_not_guessed(name: str):
    assert find_model(name) is None


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("llama-3-8b", "Llama3-8B"),
        ("llama-3-70b", "Llama3-70B"),
        ("qwen3-30b-a3b", "Qwen3-30B-A3B"),
        ("skywork-13b", "Skywork-13B"),
        ("skywork-moe-146b", "Skywork-MoE-146B-A22B"),
    ],
)
def test_presets_and_catalogue_agree(preset: str, name: str):
    known = find_model(name)
    assert known is not None
    assert count_params(known.model) == count_params(presets[preset])


def test_latent_attention_is_counted_as_deepseek_has_it():
    """2405.04434, sec. 2.1: W^DQ, W^UQ, W^QR, W^DKV, W^UK, W^UV, W^KR, W^O of DeepSeek-V3."""
    attention = LatentAttention(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
    expected = 7168 * 1536 + 1536 * 128 * 192 + 7168 * (512 + 64) + 512 * 128 * 256 + 128 * 128 * 7168
    assert attention.params(7168, 128) == expected
