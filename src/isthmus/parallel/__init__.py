"""Applies a Plan to a model: how the ranks of one site share its work."""
