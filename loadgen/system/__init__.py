"""This machine: CPUs, timers, signals, parents, and what stands in it."""
