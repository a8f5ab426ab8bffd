"""What a person writes: a fleet (sites, nodes, chips, links) and a run (model, data, train, outer)."""
