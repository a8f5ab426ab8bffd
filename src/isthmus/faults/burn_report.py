"""How the check of a node went."""

import msgspec


class BurnProblem(msgspec.Struct, frozen=True):
    """One thing that failed."""

    part: str
    """'chip 0', 'thread 3', 'memory', 'disk', 'collective', ...: what is to be looked at."""
    text: str


class BurnReport(msgspec.Struct, frozen=True, kw_only=True):
    """What failed, and the figures."""

    duration_s: float = 0.0
    problems: list[BurnProblem] = []
    warnings: list[str] = []
    """What does not keep the node out."""
    figures: dict[str, float] = {}
    """Units last in the names, as `matmul_gflops`, `copy_gbps`."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def text(self) -> str:
        """What failed, else the figures."""
        if self.problems:
            return "; ".join(f"{problem.part}: {problem.text}" for problem in self.problems)
        return ", ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
