"""Cluster: the only package that knows there are machines, and the only one that imports ray."""
