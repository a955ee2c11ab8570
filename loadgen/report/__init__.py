"""Results folders → tables, never with a GPU, a server or the network."""
