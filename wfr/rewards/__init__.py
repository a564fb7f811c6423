"""Rewards: pure functions of structured turns that return their parts."""
