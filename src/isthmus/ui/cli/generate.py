"""`isthmus generate`. The work is done by a child process, which holds the model."""

import subprocess
import sys
from pathlib import Path

from isthmus.errors import InputError
from isthmus.rundir import RunDir
from isthmus.train.export import has_weights, no_weights
from isthmus.weights.folder import is_model


def generate(  # noqa: PLR0913 (one for each option)
    run: Path,
    prompt: str,
    *,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    json_: bool = False,
) -> int:
    """Continue a prompt with a run's newest weights.

    Takes the finished model, or the newest checkpoint while the run is still going on.

    Parameters
    ----------
    run
        The run's folder, or a model folder such as `isthmus import` writes.
    prompt
        Text to continue.
    max_tokens
        Tokens to add at most; the model may end the text earlier.
    temperature
        0 always takes the likeliest token; 1 draws as the model was trained to.
    top_p
        Draw among the likeliest tokens that together have this probability.
    seed
        The same seed gives the same text.
    json_
        Print one JSON object at the end.
    """
    _check(max_tokens, temperature, top_p)
    folder = RunDir(run) if is_model(run) else RunDir.existing(run)
    if not has_weights(folder):
        raise no_weights(folder)
    options = {
        "run": run,
        "prompt": prompt,
        "max-tokens": max_tokens,
        "temperature": temperature,
        "top-p": top_p,
        "seed": seed,
    }
    command = [sys.executable, "-m", "isthmus.train.generate"]
    command += [f"--{name}={value}" for name, value in options.items()]
    return subprocess.run([*command, *(["--json"] if json_ else [])], check=False).returncode


def _check(max_tokens: int, temperature: float, top_p: float) -> None:
    if max_tokens < 1:
        raise InputError(f"{max_tokens} is too few", where="--max-tokens", hint="ask for 1 token or more")
    if temperature < 0:
        raise InputError(f"{temperature} is below 0", where="--temperature", hint="try 0 to 1.5")
    if not 0 < top_p <= 1:
        raise InputError(f"{top_p} is no probability", where="--top-p", hint="above 0, at most 1")
