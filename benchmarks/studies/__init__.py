"""Studies: what several whole runs say about a question that was asked before them."""
