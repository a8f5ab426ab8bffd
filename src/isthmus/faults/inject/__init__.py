"""Faults on purpose, for tests, drills and benchmarks alike: what there is (`kinds`), when it happens
(`schedule`), what is sent to whom (`messages`), and what is done to files (`files`, `disk`). Pure and without
torch; a rank's own part is `train.injectors`.
"""
