"""Retrieval: how the Search operator finds passages, in memory, on a disk, or on the web."""
