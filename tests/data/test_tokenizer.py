import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from isthmus.data.tokenizer import EOS, TextTokenizer, check_vocab, load_tokenizer, train_tokenizer
from isthmus.errors import InputError, NotFoundError

TEXTS = ["the cat sat on the mat", "der Hund läuft", "def f(x):\n    return x\n"] * 20
RAW = train_tokenizer(TEXTS, 300)
TOKENIZER = TextTokenizer(RAW, "here")


@given(st.text())
def test_any_text_survives(text: str):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_training_is_deterministic():
    assert train_tokenizer(iter(TEXTS), 300) == RAW


def test_documents_end_with_eos_and_text_cannot_forge_it():
    (ids,) = TOKENIZER.encode_documents([f"a {EOS} b"])
    assert ids.dtype == np.uint32
    assert ids[-1] == TOKENIZER.eos_id
    assert TOKENIZER.eos_id not in ids[:-1]
    assert TOKENIZER.decode(ids) == f"a {EOS} b"


def test_too_small_vocabulary():
    with pytest.raises(InputError, match="needs 257"):
        train_tokenizer(TEXTS, 256)


def test_vocabulary_that_does_not_fit_the_model():
    check_vocab(TOKENIZER, 300, "x")
    with pytest.raises(InputError, match="room for 280") as caught:
        check_vocab(TOKENIZER, 280, "x")
    assert "vocab_size: 320" in (caught.value.hint or "")


def test_missing_and_broken_files(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"version": 1}')
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def _word_level(path: Path, words: list[str]) -> None:
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0])
    tokenizers.Tokenizer(model).save(str(path / "tokenizer.json"))


def test_eos_by_name_by_configuration_or_not_at_all(tmp_path: Path):
    _word_level(tmp_path, ["a", "b", "</s>"])
    assert load_tokenizer(tmp_path).eos_id == 2
    _word_level(tmp_path, ["a", "b", "stop"])
    with pytest.raises(InputError, match="ends a document"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "stop"}}))
    assert load_tokenizer(tmp_path / "tokenizer.json").eos_id == 2
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "nope"}))
    with pytest.raises(InputError, match="'nope'"):
        load_tokenizer(tmp_path)
