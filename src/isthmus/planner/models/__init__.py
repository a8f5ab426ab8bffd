"""Published models by name, and their dimensions."""
