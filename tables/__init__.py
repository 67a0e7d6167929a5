"""Faust tables: what the healer remembers, each with a changelog topic."""
