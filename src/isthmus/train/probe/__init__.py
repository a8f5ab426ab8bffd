"""Measures the machine at hand: each rank is `python -m isthmus.train.probe`, placed as a training rank is."""
