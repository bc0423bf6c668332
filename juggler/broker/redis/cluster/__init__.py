"""Redis Cluster: `slot_map` and `nodes` below, the broker's parts on them above, `cluster_topology` on top."""
