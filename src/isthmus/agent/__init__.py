"""One per node: starts the processes of a run, watches them, restarts what died. No torch here."""
