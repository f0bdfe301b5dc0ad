"""A builder for each verb: what was seen goes in, a plan comes out. Nothing is touched."""
