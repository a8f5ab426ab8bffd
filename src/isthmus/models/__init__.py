"""Transformer, dense or Mixture-of-Experts per layer. Knows nothing of ranks."""
