"""A model of the nodes, and the rules by which people and faults act on it."""
