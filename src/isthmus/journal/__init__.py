"""Typed events in append-only logs. One writer per folder, any number of readers."""
