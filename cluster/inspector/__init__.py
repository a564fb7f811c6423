"""The trajectory inspector: a web page, for this machine only, over the journal of a run."""
