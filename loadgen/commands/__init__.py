"""What each command does, one file per command; `cli.py` only declares their options."""
