"""A real run under faults: what is done to it, when, and what is left of it."""
