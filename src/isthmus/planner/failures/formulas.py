"""What is known in closed form about checkpoints and exponential failures; the replay is held against it.

M: mean time between failures of the whole job; delta: pause for a checkpoint; R: from a failure to the first
step; tau: work between two checkpoints.
"""

import math


def young_interval_s(delta_s: float, mtbf_s: float) -> float:
    """tau = sqrt(2 delta M). J. W. Young, A first order approximation to the optimum checkpoint interval,
    CACM 17 (1974)."""
    return math.sqrt(2 * delta_s * mtbf_s)


def daly_interval_s(delta_s: float, mtbf_s: float) -> float:
    """tau = sqrt(2 delta M) (1 + sqrt(delta / 2M) / 3 + (delta / 2M) / 9) - delta, and M from delta = 2M on.

    J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future
    Generation Computer Systems 22 (2006). It does not depend on R.
    """
    if delta_s >= 2 * mtbf_s:
        return mtbf_s
    part = delta_s / (2 * mtbf_s)
    return young_interval_s(delta_s, mtbf_s) * (1 + math.sqrt(part) / 3 + part / 9) - delta_s


def expected_goodput(tau_s: float, delta_s: float, recovery_s: float, mtbf_s: float) -> float:
    """tau / (M e^(R/M) (e^((tau + delta)/M) - 1)): Daly's complete model, turned over.

    Exact where failures are exponential, spares never run out, and a failure during recovery begins it anew.
    """
    exponent = (tau_s + delta_s) / mtbf_s
    if exponent > 700 or recovery_s / mtbf_s > 700:
        return 0.0
    return tau_s / (mtbf_s * math.exp(recovery_s / mtbf_s) * math.expm1(exponent))
