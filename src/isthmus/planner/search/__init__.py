"""From a fleet and a model to the best plan: pools of chips, layouts of a site, sites joined to a run."""
