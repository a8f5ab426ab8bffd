"""Model folders: whole or not there, checked, small in memory, and those of the first format."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import xxhash
from hf_models import make

from isthmus.data.tokenizer import EOS, TextTokenizer, train_tokenizer
from isthmus.errors import CorruptError, InputError, NotFoundError, StorageError
from isthmus.spec.count import param_shapes
from isthmus.spec.model import ModelSpec
from isthmus.train.export import load_final, save_final
from isthmus.weights.alike import difference
from isthmus.weights.folder import Card, Opened, appears_whole, is_model, open_model, write_card
from isthmus.weights.hf.read import import_model
from isthmus.weights.hf.write import export_model
from isthmus.weights.shards import write_shards
from isthmus.weights.source import CHUNK_BYTES, ArraySource

SPEC = ModelSpec(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
                 ffn_size=24, num_experts=3, first_moe_layer=1)  # fmt: skip


def arrays_of(spec: ModelSpec) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(1)
    return {name: draws.standard_normal(shape, np.float32) for name, shape in param_shapes(spec)}


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(train_tokenizer(["the river and the sea"], 300), "test")


@pytest.mark.parametrize("shard_bytes", [1, 5000, 10**9])
def test_any_number_of_shards_comes_back(shard_bytes: int, tmp_path: Path):
    arrays = arrays_of(SPEC)
    heard: list[tuple[int, int]] = []
    shards = write_shards(
        tmp_path, ArraySource(arrays).infos, lambda name: [arrays[name]],
        lambda done, total: heard.append((done, total)), shard_bytes,
    )  # fmt: skip
    write_card(tmp_path, Card(model=SPEC, tokens=5, version=2, eos_id=-1, shards=shards))
    opened = open_model(tmp_path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(opened.source.rows(name, 0, opened.source.infos[name].matrix[0]),
                                      array.reshape(opened.source.infos[name].matrix))  # fmt: skip
    elsewhere = {}
    for file in tmp_path.glob("*.safetensors"):
        elsewhere |= safetensors.numpy.load_file(file)
    assert elsewhere.keys() == arrays.keys()
    assert heard[-1][0] == heard[-1][1] == sum(array.nbytes for array in arrays.values())


def test_the_first_format_is_read(tmp_path: Path, tokenizer):
    arrays = arrays_of(SPEC)
    raw = safetensors.numpy.save(arrays)
    (tmp_path / "model.safetensors").write_bytes(raw)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.raw)
    fields = {"model": {**msgspec.to_builtins(SPEC), "aux_loss_coef": 0.01}, "tokens": 7, "version": 3}
    fields |= {"eos_id": 1, "size": len(raw), "xxh3": xxhash.xxh3_128_hexdigest(raw), "format": 1}
    (tmp_path / "model.json").write_text(json.dumps(fields))
    weights = load_final(tmp_path)
    assert (weights.model, weights.tokens, weights.version) == (SPEC, 7, 3)
    np.testing.assert_array_equal(weights.parameters["layers.1.moe.experts.2.down"],
                                  arrays["layers.1.moe.experts.2.down"])  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps({**fields, "format": 9}))
    with pytest.raises(InputError, match="format is 9"):
        load_final(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(CorruptError, match="damaged"):
        load_final(tmp_path)


def test_a_flipped_bit_and_a_foreign_tensor_are_found(tmp_path: Path, tokenizer):
    save_final(tmp_path, arrays_of(SPEC), SPEC, tokenizer, tokens=1, version=1)
    file = tmp_path / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 4
    file.write_bytes(raw)
    with pytest.raises(CorruptError, match="checksum"):
        open_model(tmp_path)
    save_final(tmp_path, arrays_of(SPEC), msgspec.structs.replace(SPEC, qkv_bias=True), tokenizer,
               tokens=1, version=1)  # fmt: skip
    with pytest.raises(CorruptError, match=r"attn\.w.\.bias"):
        open_model(tmp_path)


def test_which_token_ends_a_text_is_kept(tmp_path: Path, tokenizer):
    other = TextTokenizer(tokenizer.raw.replace(EOS.encode(), b"<|stop|>"), "test", "<|stop|>")
    save_final(tmp_path, arrays_of(SPEC), SPEC, other, tokens=1, version=1)
    assert load_final(tmp_path).tokenizer.eos == "<|stop|>"


def test_what_is_written_aside_vanishes_when_it_fails(tmp_path: Path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "left").touch()

    def fail() -> None:
        with appears_whole(tmp_path / "out") as folder:
            assert not (folder / "left").exists()
            (folder / "model.json").touch()
            raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with appears_whole(tmp_path / "deep" / "out") as folder:
        (folder / "a").touch()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


SLOW = """
import sys, time
from pathlib import Path
from isthmus.weights.folder import open_model
from isthmus.weights.hf.read import import_model
from isthmus.weights.hf.write import export_model
def told(done, total):
    print(done, flush=True)
    time.sleep(0.01)
source, out = map(Path, sys.argv[2:])
if sys.argv[1] == "import":
    import_model(source, out, told)
else:
    export_model(open_model(source), out, told=told)
"""


@pytest.mark.parametrize("verb", ["import", "export"])
def test_kill_9_leaves_nothing_that_loads(verb: str, tmp_path: Path):
    source = tmp_path / "hf"
    make("mixtral").save_pretrained(source)
    if verb == "export":
        import_model(source, tmp_path / "ours")
        source = tmp_path / "ours"
    out = tmp_path / "out"
    for lines in (1, 12):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, verb, source, out], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        for _ in range(lines):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not out.exists()
        assert not is_model(tmp_path / ".out.partial")
        assert not (tmp_path / ".out.partial" / "config.json").exists()
    with pytest.raises(NotFoundError):
        open_model(out)
    if verb == "import":
        import_model(source, out)
    else:
        export_model(open_model(source), out)
    assert not (tmp_path / ".out.partial").exists()


def _traced(work) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_the_memory_of_one_tensor_is_enough(tmp_path: Path):
    """155 MiB in fp32; the largest tensor that must be whole has 4 MiB, the embedding 32 MiB."""
    spec = ModelSpec(vocab_size=16_384, hidden_size=512, num_layers=2, num_heads=4, num_kv_heads=2,
                     head_dim=64, ffn_size=1024, num_experts=10, tied_head=True)  # fmt: skip
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in param_shapes(spec)}
    largest = max(size for name, size in sizes.items() if ".experts." in name)
    assert sum(sizes.values()) > 20 * largest
    piece = np.arange(1 << 18, dtype=np.float32)

    def body(name: str):
        for start in range(0, sizes[name], piece.nbytes):
            yield piece[: (sizes[name] - start) // 4]

    infos = {name: ArraySource({name: np.empty(shape, np.float32)}).infos[name]
             for name, shape in param_shapes(spec)}  # fmt: skip
    (tmp_path / "ours").mkdir()
    shards = write_shards(tmp_path / "ours", infos, body)
    write_card(tmp_path / "ours", Card(model=spec, tokens=0, version=0, eos_id=-1, shards=shards))
    opened: list[Opened] = []
    peaks = {
        "open": _traced(lambda: opened.append(open_model(tmp_path / "ours"))),
        "export": _traced(lambda: export_model(opened[0], tmp_path / "hf", dtype="bf16")),
        "import": _traced(lambda: import_model(tmp_path / "hf", tmp_path / "again")),
    }
    print(
        {name: f"{peak / 2**20:.1f} MiB" for name, peak in peaks.items()},
        f"of {sum(sizes.values()) >> 20} MiB",
    )
    # A chunk is read, widened and rounded: four arrays of at most a chunk, beside the tensor.
    assert max(peaks.values()) < largest + 4 * CHUNK_BYTES


def test_models_are_compared_by_what_they_compute():
    change = msgspec.structs.replace
    assert difference(SPEC, change(SPEC, first_moe_layer=0, dense_layers=[0])) is None
    assert difference(SPEC, change(SPEC, expert_ffn_size=24)) is None
    assert difference(SPEC, change(SPEC, expert_ffn_size=25)) == "expert_ffn_size is 24, not 25"
    assert difference(SPEC, change(SPEC, norm_eps=1e-6)) == "norm_eps is 1e-05, not 1e-06"
    dense = change(SPEC, num_experts=0)
    assert difference(dense, change(dense, top_k=1, gate_norm=2.0)) is None
    assert difference(SPEC, dense) is not None
    assert difference(SPEC, change(SPEC, max_seq_len=9), ignore=("max_seq_len",)) is None
