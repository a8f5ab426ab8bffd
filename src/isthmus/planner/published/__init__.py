"""Published training runs: a CSV's rows read, modelled, and what the belief says of them."""
