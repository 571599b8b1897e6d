"""What each `trustgate` command does; `cli.py` has their names and options."""
