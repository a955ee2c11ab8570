"""The profiles that loadgen ships, as data."""
