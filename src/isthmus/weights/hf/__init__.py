"""Hugging Face models: their config.json as a ModelSpec, their tensors as ours, and back."""
