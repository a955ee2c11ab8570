"""vLLM: its command line from options, what it tells when it is up, and a loader that runs in its processes."""
