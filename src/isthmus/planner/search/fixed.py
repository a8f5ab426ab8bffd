"""Degrees that are fixed by hand and leave no layout: which one, and what would do."""

from collections.abc import Sequence

from msgspec.structs import replace

from isthmus.errors import InfeasibleError
from isthmus.planner.search.pools import Pool
from isthmus.planner.search.space import expert_degrees, families, tensor_degrees
from isthmus.spec.run import RunSpec


def check_fixed(run: RunSpec, pools: Sequence[Pool]) -> None:
    """Raises InfeasibleError where no pool can have the degrees of `parallel`."""
    fixed, model = run.parallel, run.model
    tensor = sorted(
        {tp for pool in pools for tp in tensor_degrees(model, replace(fixed, tp=0), pool.per_node)}
    )
    if fixed.tp and fixed.tp not in tensor:
        raise _refused("tp", f"{fixed.tp} does not divide the model's heads and widths, or a node", tensor)
    experts = expert_degrees(model, replace(fixed, ep=0))
    if fixed.ep and fixed.ep not in experts:
        raise _refused("ep", f"{model.num_experts} experts cannot be spread over {fixed.ep} chips", experts)
    if fixed.pp > model.num_layers:
        message = f"{fixed.pp} stages, but the model has {model.num_layers} layers"
        raise InfeasibleError(
            message, where="parallel.pp", hint=f"at most {model.num_layers}; 0 has it chosen"
        )
    least = max(1, fixed.tp) * max(1, fixed.cp) * max(1, fixed.pp)
    most = max(pool.num_chips for pool in pools)
    if least > sum(pool.num_chips for pool in pools):
        message = f"a replica of {least} chips is larger than the largest pool, which has {most}"
        raise InfeasibleError(message, where="parallel", hint="lower tp, cp or pp, or add chips")
    if not any(families(run, pool.per_node) for pool in pools):
        message = "no layout has all the degrees that are fixed"
        raise InfeasibleError(message, where="parallel", hint="leave some of them to the plan (0 or auto)")


def check_fixed_runnable(run: RunSpec) -> None:
    """Raises InfeasibleError for what `parallel` asks for and `isthmus train` cannot run yet."""
    fixed = run.parallel
    asked = [name for name in ("tp", "cp", "pp", "virtual", "ep", "etp") if getattr(fixed, name) > 1]
    asked += ["recompute"] * (fixed.recompute not in ("auto", "none"))
    asked += ["sharding"] * (fixed.sharding not in ("auto", "none"))
    if asked:
        names = ", ".join(f"parallel.{name} {getattr(fixed, name)}" for name in asked)
        raise InfeasibleError(
            f"train cannot run {names} yet", where="parallel", hint="leave it out, or plan without --runnable"
        )


def _refused(name: str, message: str, possible: Sequence[int]) -> InfeasibleError:
    hint = f"possible {'are' if len(possible) > 1 else 'is'} {', '.join(map(str, possible))}; 0 has it chosen"
    return InfeasibleError(message, where=f"parallel.{name}", hint=hint)
