"""Measures the machine at hand: each rank is a `python -m isthmus.train.probe`, placed as one in training."""
