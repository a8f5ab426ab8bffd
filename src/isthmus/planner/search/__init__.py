"""From a fleet and a model to the best plan: pools of like chips, layouts of a site, sites joined to a run."""
