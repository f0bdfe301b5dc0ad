"""What a node must have (pm.init), and what is wrong with a cluster (pm.verify)."""
