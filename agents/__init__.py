"""Faust agents: connect topics, the pure core and the tables. Thin on purpose."""
