"""A trial's load: what to send and when, sent exactly, by one process or several."""
