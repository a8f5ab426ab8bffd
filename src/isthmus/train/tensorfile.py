"""The tensors' type, where the learner looks for it."""

from isthmus.weights.tensorfile import Arrays

__all__ = ["Arrays"]
