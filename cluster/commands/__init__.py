"""The commands of `wfr`, one file each; `cluster.cli` puts them together."""
