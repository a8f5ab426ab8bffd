"""Keeping a site's ranks alive: what they and their keeper tell each other (`messages`), what the keeper does
about it (`decide`: pure; `state`, `apply`, `rules`), and the whole in a simulator (`sim`). No torch here.
"""
