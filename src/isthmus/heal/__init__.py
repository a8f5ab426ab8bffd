"""Keeping a site's ranks alive: what they and their keeper tell each other (`messages`), what the keeper does
about it (`state`, `rules`: pure), and the whole in a simulator (`sim`); faults on purpose are asked for by
`inject`. No torch here.
"""
