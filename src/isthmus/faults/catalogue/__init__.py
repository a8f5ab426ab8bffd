"""The catalogue of faults: one YAML file per family in this folder, one entry per fault."""
