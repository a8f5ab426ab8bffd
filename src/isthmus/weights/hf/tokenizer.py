"""The tokenizer's files of a Hugging Face model, carried along both ways."""

from pathlib import Path
from typing import Any

import msgspec

from isthmus.data.tokenizer import TextTokenizer, load_tokenizer
from isthmus.journal.store import DiskStore
from isthmus.weights.folder import TOKENIZER, TOKENIZER_CONFIG, copy_files
from isthmus.weights.hf.config import read_json

FILES = (
    TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "tokenizer.model", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


def take_tokenizer(source: Path, folder: Path, config: dict[str, Any]) -> TextTokenizer | None:
    """Copy the files; None where tokenizer.json is not among them.

    Where tokenizer_config.json names no end of text, config.json's eos_token_id is written there.
    Raises InputError for a tokenizer.json that cannot be used.
    """
    copied = copy_files(source, folder, FILES)
    if TOKENIZER not in copied:
        return None
    settings = read_json(folder / TOKENIZER_CONFIG) if TOKENIZER_CONFIG in copied else {}
    eos = _token(read_json(folder / TOKENIZER), config.get("eos_token_id"))
    if eos and not settings.get("eos_token"):
        _write(folder, settings | {"eos_token": eos})
    return load_tokenizer(folder)


def _token(document: dict[str, Any], number: Any) -> str | None:
    number = number[0] if isinstance(number, list) and number else number
    added = {token["id"]: token["content"] for token in document.get("added_tokens") or []}
    return added.get(number)


def give_tokenizer(source: Path, folder: Path, max_seq_len: int) -> None:
    """Copy the files, and say in tokenizer_config.json what transformers needs, where it is not said."""
    copied = copy_files(source, folder, FILES)
    if TOKENIZER not in copied:
        return
    settings = read_json(folder / TOKENIZER_CONFIG) if TOKENIZER_CONFIG in copied else {}
    needed = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": load_tokenizer(folder).eos,
        "model_max_length": max_seq_len,
        "clean_up_tokenization_spaces": False,
    }
    if needed.keys() - settings.keys():
        _write(folder, needed | settings)


def _write(folder: Path, settings: dict[str, Any]) -> None:
    text = msgspec.json.format(msgspec.json.encode(settings), indent=2)
    DiskStore().write_atomic(folder / TOKENIZER_CONFIG, text)
