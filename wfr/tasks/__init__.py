"""Tasks: what a director is asked, and where the questions come from."""
