"""Text -> tokens -> shards -> batches, in an order that is arithmetic on (seed, index)."""
