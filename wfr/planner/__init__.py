"""The capacity planner: a simulation of a whole run on hardware that need not exist."""
