"""Faults: how fast they are seen, and how rightly they are explained."""
