"""`python -m trustgate` is the `trustgate` command."""

from trustgate.cli import main

main()
