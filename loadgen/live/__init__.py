"""What a running sweep shows: the live view, its state, Prometheus figures, tables on a terminal."""
