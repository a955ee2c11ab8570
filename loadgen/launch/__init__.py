"""Servers: found by name, started from data, watched, and ended with their whole family."""
