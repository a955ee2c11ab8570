"""torch parts that several frameworks' processes share: the model, its split, memory, probes."""
