"""Poor man's cloud: highly available virtual machines on ordinary Linux nodes, driven over ssh."""

__version__ = "0.1.0"
