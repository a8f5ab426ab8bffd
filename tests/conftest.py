"""Hypothesis judges what comes out, not how long it took: a busy machine fails no test. Tests stop what they
start by Ctrl-C, which is ignored below a parent that ignores it, as a script's background does.
"""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")
signal.signal(signal.SIGINT, signal.default_int_handler)
