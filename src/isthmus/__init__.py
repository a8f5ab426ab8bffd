"""isthmus: train one language model over all the compute you can reach."""

__version__ = "0.1.0"
