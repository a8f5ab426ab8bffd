"""Training as arithmetic: the state after a step is a function of the state before and of the step's data, so
that a step that is left out, done twice or done with other data shows in every state after it.
"""

SEEDED = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def data(step: int) -> int:
    """Which samples the step takes: arithmetic on its number."""
    return (step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & MASK


def advance(state: int, step: int) -> int:
    mixed = (state ^ data(step)) * 0xD6E8FEB86659FD93 & MASK
    return mixed ^ (mixed >> 32)


def reference(steps: int) -> list[int]:
    """The state after each step of an undisturbed run."""
    states = [SEEDED]
    for step in range(steps):
        states.append(advance(states[-1], step))
    return states
