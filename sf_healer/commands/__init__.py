"""The commands of `sf-healer`, one module each; how to add one stands in sf_healer/cli.py."""
