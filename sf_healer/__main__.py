"""`python -m sf_healer` is `sf-healer`."""

from sf_healer.cli import main

main()
