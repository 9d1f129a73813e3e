"""`python -m sfmobile`."""

from sfmobile.cli.main import main

main()
