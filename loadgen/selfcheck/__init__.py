"""The instrument checked: this machine, its ceilings, the client's exactness."""
