"""Learner: the role that turns trajectories into new weights and publishes them."""
