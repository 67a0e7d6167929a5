"""Whole stories on real components: what is told in the issue, played from the first report to the audit.

What a story needs beside tests/lab (Jobs, loaders, kills, the audit) lives here; a test is one of them in words.
"""
