"""Continue a prompt with a run's newest weights: the child process of `isthmus generate`.

Text goes to stdout as it is made; with --json one object at the end.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import torch

from isthmus.data.tokenizer import TextTokenizer
from isthmus.errors import CorruptError, IsthmusError
from isthmus.models.generate import Sampling, generate
from isthmus.models.transformer import Transformer
from isthmus.rundir import RunDir
from isthmus.train.export import Weights, load_newest_weights

INTERRUPTED = 130
_UNFINISHED = "\ufffd"


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """What --json prints."""

    prompt: str
    text: str
    num_tokens: int
    weights: str
    trained_tokens: int
    version: int


def load_model(weights: Weights) -> Transformer:
    """Raises CorruptError where parameters are missing."""
    model = Transformer(weights.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            array = weights.parameters.get(name)
            if array is None or array.shape != tuple(parameter.shape):
                raise CorruptError(f"the weights have no sound '{name}'", where=str(weights.path))
            parameter.copy_(torch.from_numpy(array.copy()))
    return model


def text_pieces(tokens: Iterable[int], tokenizer: TextTokenizer) -> Iterator[str]:
    """Text as soon as it is whole: a character may be spread over several tokens."""
    held: list[int] = []
    for token in tokens:
        held.append(token)
        text = tokenizer.decode(held)
        if not text.endswith(_UNFINISHED):
            yield text
            held = []
    if held:
        yield tokenizer.decode(held)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    try:
        _run(options)
    except IsthmusError as error:
        _report(error, options.json)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="isthmus.train.generate")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--top-p", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> None:
    weights = load_newest_weights(RunDir(options.run))
    tokenizer = weights.tokenizer
    prompt_ids = tokenizer.encode(options.prompt) or [tokenizer.eos_id]
    sampling = Sampling(temperature=options.temperature, top_p=options.top_p, seed=options.seed)
    made: list[int] = []

    def counted() -> Iterator[int]:
        model = load_model(weights)
        for token in generate(
            model, prompt_ids, options.max_tokens, sampling=sampling, eos_id=tokenizer.eos_id
        ):
            made.append(token)
            yield token

    text = ""
    if not options.json:
        print(options.prompt, end="", flush=True)
    for piece in text_pieces(counted(), tokenizer):
        text += piece
        if not options.json:
            print(piece, end="", flush=True)
    if options.json:
        document = Generated(
            prompt=options.prompt,
            text=text,
            num_tokens=len(made),
            weights=str(weights.path),
            trained_tokens=weights.tokens,
            version=weights.version,
        )
        print(msgspec.json.encode(document).decode())
    else:
        print()


def _report(error: IsthmusError, as_json: bool) -> None:
    if not as_json:
        print(f"error: {error}", file=sys.stderr)
        return
    facts = {
        "type": type(error).__name__,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
    print(msgspec.json.encode({"error": facts}).decode(), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
