"""Whatever reaches a node: the only place, with pmc/cluster.py, that owns connections and threads."""
