"""A run's report: one self-contained HTML page."""
