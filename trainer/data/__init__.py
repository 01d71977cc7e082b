"""From signed shards to batches: gate (may this data be used?), shards, order, collate."""
