"""Results → tables, physics, statistics, thresholds and findings. Never needs a GPU, a server or the network."""
