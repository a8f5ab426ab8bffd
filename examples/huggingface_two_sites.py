"""A Hugging Face model, trained by a plain PyTorch loop at two sites that share one set of parameters.

    python examples/huggingface_two_sites.py

starts a parameter server and two processes that stand for the sites. On real sites, start the server as
examples/README.md says, copy RUN/certs/NAME to site NAME, and run there

    python huggingface_two_sites.py --site jinan --server HOST:4711 --certs jinan

What joins the sites is marked with "isthmus" below: four lines.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from isthmus import outer

SITES = ("jinan", "shanghai")
SEQ_LEN, BATCH_SIZE = 128, 8


class Text:
    """Python's own source as bytes; sample i is a piece of it at a place that i alone decides."""

    def __init__(self) -> None:
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        self._bytes = torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8)

    def batch(self, ranges: list[tuple[int, int]]) -> torch.Tensor:
        """int64[samples, SEQ_LEN]"""
        samples = [i for start, end in ranges for i in range(start, end)]
        places = [random.Random(i).randrange(len(self._bytes) - SEQ_LEN) for i in samples]
        return torch.stack([self._bytes[at : at + SEQ_LEN] for at in places]).long()


def train(name: str, server: str, certs: str) -> None:
    """One site."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    text, steps, loss = Text(), 0, torch.tensor(0.0)

    job = outer.SiteJob(batch_size=BATCH_SIZE)
    with outer.Site(model, optimizer, name=name, server=server, certs=certs, job=job) as site:  # isthmus
        while not site.stopping:
            samples = site.take(BATCH_SIZE)  # isthmus: which samples are this site's next
            if not samples:
                site.poll()
                continue
            tokens = text.batch(samples)
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            site.step(tokens=tokens.numel(), samples=samples)  # isthmus: push or take up
            steps += 1
            if steps % 20 == 0:
                print(f"{name}: step {steps}, loss {loss.item():.3f}, version {site.version}", flush=True)
        site.poll()
        site.leave(site.stopping)  # isthmus: hand in what is left
    print(f"{name}: done after {steps} steps, version {site.version}, {fingerprint(model)}", flush=True)


def fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return f"parameters {digest.hexdigest()[:12]}"


def train_both(run: Path, tokens: str) -> int:
    """Server and both sites on this machine."""
    fleet = Path(__file__).parent / "two_sites" / "fleet.yaml"
    settings = [
        f"train.tokens={tokens}",
        f"data.seq_len={SEQ_LEN}",
        f"train.batch_size={BATCH_SIZE}",
        "outer.inner_steps=20",
        "outer.mode=strict",  # nobody starts alone: the whole budget is a matter of seconds
    ]
    overrides = [word for setting in settings for word in ("--set", setting)]
    isthmus = Path(sys.executable).with_name("isthmus")
    start = [isthmus, "server", "start", run, "--fleet", fleet, "--bind", "127.0.0.1:0", *overrides]
    server = subprocess.Popen(start)
    try:
        address = run / "server" / "address"
        while not address.exists():
            if server.poll() is not None:
                return 1
            time.sleep(0.1)
        place = ["--server", address.read_text().strip(), "--certs", run / "certs"]
        sites = [subprocess.Popen([sys.executable, __file__, "--site", name, *place]) for name in SITES]
        return max(abs(site.wait()) for site in sites) or server.wait()
    finally:
        server.terminate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--site", default="", help="be this one site of a server elsewhere")
    parser.add_argument("--server", default="", help="host:port")
    parser.add_argument("--certs", default="", help="folder with this site's certificate and token")
    parser.add_argument("--tokens", default="400k", help="budget of both sites together")
    parser.add_argument("--run-dir", type=Path, help="where the server keeps the run; default: a new folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.site:
        train(options.site, options.server, options.certs)
        return 0
    run = options.run_dir or Path(tempfile.mkdtemp(prefix="isthmus-example-")) / "run"
    return train_both(run, options.tokens)


if __name__ == "__main__":
    sys.exit(main())
