"""Text <-> token numbers: a byte-level BPE of our own training, or any `tokenizer.json`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import tokenizers
import xxhash

from isthmus.errors import InputError, NotFoundError

EOS = "<|endoftext|>"
_KNOWN_EOS = (EOS, "</s>", "<|end_of_text|>", "<|im_end|>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")
_BYTES = 256


class TextTokenizer:
    """One loaded `tokenizer.json`. Text never turns into special tokens."""

    def __init__(self, raw: bytes, where: str, eos: str = ""):
        try:
            self._inner = tokenizers.Tokenizer.from_str(raw.decode())
        except Exception as e:  # the library raises bare Exception
            raise InputError(
                f"is no tokenizer.json: {e}",
                where=where,
                hint="give a file that the `tokenizers` library wrote, or data.tokenizer: train",
            ) from e
        self._inner.encode_special_tokens = True
        self._inner.no_padding()
        self._inner.no_truncation()
        self.raw = raw
        """The file itself, to be written beside weights."""
        self.hash = xxhash.xxh3_128_hexdigest(raw)
        ids = self._inner.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values()) + 1
        """Smallest embedding that holds every token."""
        self.eos = _find_eos(ids, eos, where)
        """The token that ends every document, and its number."""
        self.eos_id = ids[self.eos]

    def encode(self, text: str) -> list[int]:
        """Token numbers of `text`, with nothing added."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of token numbers; special tokens leave none."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def encode_documents(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """uint32[num_tokens + 1] for each text, ended by `eos_id`; on all cores."""
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([*encoding.ids, self.eos_id], np.uint32) for encoding in encodings]


def _find_eos(ids: dict[str, int], eos: str, where: str) -> str:
    for name in (eos,) if eos else _KNOWN_EOS:
        if name in ids:
            return name
    raise InputError(
        f"has no token '{eos}' to end a document" if eos else "has no token that ends a document",
        where=where,
        hint=f"add one of {', '.join(_KNOWN_EOS)}, or an eos_token in tokenizer_config.json beside it",
    )


def load_tokenizer(path: Path) -> TextTokenizer:
    """Reads a `tokenizer.json` or the one in a folder; `tokenizer_config.json` beside it may name eos."""
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        raw = path.read_bytes()
    except FileNotFoundError as e:
        raise NotFoundError(
            "there is no tokenizer here",
            where=str(path),
            hint="give the path of a tokenizer.json, or data.tokenizer: train",
        ) from e
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", where=str(path)) from e
    return TextTokenizer(raw, str(path), _configured_eos(path.parent / "tokenizer_config.json"))


def _configured_eos(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        eos = msgspec.json.decode(path.read_bytes(), type=dict).get("eos_token") or ""
    except msgspec.DecodeError as e:
        raise InputError(f"is not JSON: {e}", where=str(path), hint="mend it or delete it") from e
    return eos["content"] if isinstance(eos, dict) else eos


def check_vocab(tokenizer: TextTokenizer, vocab_size: int, where: str) -> None:
    """InputError where the model's embedding has no row for some token."""
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model room for {vocab_size}",
            where=where,
            hint=f"set model.vocab_size: {-(-tokenizer.vocab_size // 64) * 64}, or take another tokenizer",
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """`tokenizer.json` of a byte-level BPE of at most `vocab_size` tokens. Same texts, same bytes."""
    if vocab_size < _BYTES + 1:
        raise InputError(
            f"model.vocab_size is {vocab_size}; a byte-level tokenizer needs {_BYTES + 1}",
            hint=f"set model.vocab_size to {_BYTES + 1} or more",
        )
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return inner.to_str().encode()
