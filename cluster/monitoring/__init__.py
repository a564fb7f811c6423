"""What watches a run: Prometheus' configuration and rules, and Grafana's dashboards.

They are generated from the Python here by `python -m cluster.monitoring`, and lie in `generated/`.
"""
