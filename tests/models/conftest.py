import sys
from pathlib import Path

import msgspec
import pytest
import torch

from isthmus.models.init import init_weights
from isthmus.models.transformer import Transformer
from isthmus.spec.model import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))  # for `reference`

SMALL = ModelSpec(
    vocab_size=50, hidden_size=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, ffn_size=20,
    num_experts=4, top_k=2, first_moe_layer=1, max_seq_len=64,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build():
    """A small model with its weights scaled up, so that attention and routing are far from uniform."""

    def make(dtype: torch.dtype = torch.float32, seed: int = 3, **changes) -> Transformer:
        model = Transformer(msgspec.structs.replace(SMALL, **changes), dtype)
        init_weights(model, seed)
        with torch.no_grad():
            for name, param in model.named_parameters():
                if name.endswith(("embed.weight", "head.weight")):
                    param.mul_(2.0)
                elif name.endswith("router.weight"):
                    param.mul_(20.0)
                elif param.dim() == 1:
                    param.add_(torch.linspace(-0.3, 0.3, len(param)))
        return model

    return make


@pytest.fixture
def draws(request) -> torch.Generator:
    """Seeded by the test's name; pytest prints the seed of a test that fails."""
    seed = sum(map(ord, request.node.name))
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)
