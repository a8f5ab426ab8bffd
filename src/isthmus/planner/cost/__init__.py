"""Seconds and bytes of a model's blocks on a chip, and of a step that is put together from them."""
