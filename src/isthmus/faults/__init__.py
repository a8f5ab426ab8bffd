"""Faults: what they look like (`catalogue`), which one it was (`diagnose`), whether there is one (`detect`),
how ranks tell what they do (`page`), and how they are made on purpose (`inject`). Pure and without torch.
"""
