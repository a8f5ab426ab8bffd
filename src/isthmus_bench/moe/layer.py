"""`moe.roofline`, `moe.vs`, `moe.router_share`: forward and backward of one layer in bf16."""

from statistics import median

from isthmus.models.row_kernels import VARIABLE as COMPILED
from isthmus_bench.document import Result, package_version
from isthmus_bench.moe import contender
from isthmus_bench.moe.contender import Contender
from isthmus_bench.moe.race import Effort, Race, faster, fraction, race, where

OURS, MASTERS, PLAIN, DEFAULT = "isthmus", "fp32 parameters", "without a compiler", "allocator left as it is"
PEERS = {
    "hf_grouped": "Qwen3-MoE grouped_mm",
    "hf_eager": "Qwen3-MoE eager",
    "hf_grouped_compiled": "Qwen3-MoE grouped_mm, torch.compile",
}
TITAN = "torchtitan"


def run(effort: Effort) -> list[Result]:
    results = []
    for num_experts in (8, 16, 32):
        peers = num_experts == 16
        found = race(contenders(num_experts, effort, peers), effort, fixed=True)
        if peers and contender.torchtitan() is None:
            found.missing.append(
                f"torchtitan not run: name an interpreter that has it in {contender.VARIABLE}"
            )
        results += rooflines(num_experts, found, effort)
        if peers:
            results += comparisons(found)
    return [*results, router_share(effort)]


def contenders(num_experts: int, effort: Effort, peers: bool) -> list[Contender]:
    shape = {"num_experts": num_experts, "tokens": effort.tokens}

    def ours(
        name: str, *more: str, masters: bool = False, variables: dict[str, str] | None = None
    ) -> Contender:
        options = contender.options(**shape, fp32_masters=masters)
        return Contender(name, ["layer", "isthmus", *options, *more], variables=variables)

    keep = "--keep-memory"
    entered = [
        ours(OURS, keep),
        ours(MASTERS, keep, masters=True),
        ours(PLAIN, keep, variables={COMPILED: "0"}),
        ours(DEFAULT),
    ]
    if peers:
        options = contender.options(**shape)
        entered += [Contender(name, ["layer", name, *options]) for name in PEERS]
        if titan := contender.torchtitan():
            entered.append(Contender(TITAN, ["layer", TITAN, *options], titan.python))
    return entered


def rooflines(num_experts: int, found: Race, effort: Effort) -> list[Result]:
    results = []
    for id_, turns in (("moe.roofline", found.turns), ("moe.roofline_fixed", found.fixed)):
        ours = turns[OURS]
        peers = {name: fraction(turns[name]) for name in turns if name != OURS}
        layer_ms, dense_ms = (median(turn[key] for turn in ours) * 1e3 for key in ("s", "dense_s"))
        times = f"{effort.tokens} tokens; layer {layer_ms:.1f} ms, dense {dense_ms:.1f} ms"
        note = "; ".join([where(), times, *found.missing])
        results.append(Result(f"{id_}.{num_experts}", fraction(ours), "ratio", peers, note))
    return results


def comparisons(found: Race) -> list[Result]:
    """How many times as fast as each peer."""
    results = []
    library = f"transformers {package_version('transformers')}"
    names = {name: f"{library} {setting}" for name, setting in PEERS.items()}
    if titan := contender.torchtitan():
        names[TITAN] = titan.title
    for name, title in names.items():
        for id_, turns in (("moe.vs", found.turns), ("moe.vs_fixed", found.fixed)):
            if name in turns:
                factor = faster(turns[OURS], turns[name])
                results.append(
                    Result(f"{id_}.{name}", factor, "ratio", {title: 1.0}, f"16 experts, {where()}")
                )
    return results


def router_share(effort: Effort) -> Result:
    """Router with normalisation, balance loss and counts, of the layer's time."""
    options = contender.options(num_experts=16, tokens=effort.tokens, gate_norm=1.0)
    entered = Contender(OURS, ["router", "isthmus", *options, "--keep-memory"])
    turns = race([entered], effort).turns[OURS]
    share = median(turn["router_s"] / turn["s"] for turn in turns)
    return Result("moe.router_share", share, "ratio", {}, f"16 experts, {where()}")
