"""Benchmarks: performance is proven here as numbers a command produces, never in a timed test."""
