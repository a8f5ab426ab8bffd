"""Collectives between the ranks of one site. Between sites it is `wire` and `outer`."""
