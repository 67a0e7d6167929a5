"""Chaos experiments: Litmus' kinds with a strict schema, lints for its traps, and what runs or submits an engine."""
