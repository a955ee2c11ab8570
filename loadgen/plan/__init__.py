"""Profile → trials in order, the search for the largest batch, and what fits into the time left. Pure."""
