"""Whatever reaches a node: with pmc/cluster.py this owns the connections and their threads."""
