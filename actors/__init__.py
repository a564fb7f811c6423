"""Actors: the role that samples a director and steps its environments."""
