"""Environments: where a director's turns become observations and rewards."""
