"""Datasheets of chips by name. `find_chip` takes any spelling; a fleet may define its own."""
