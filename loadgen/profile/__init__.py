"""TOML and flags → a checked Profile; every error names file, key, value and what is accepted."""
