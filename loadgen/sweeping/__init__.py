"""Where all rooms meet: a plan runs on this machine, part after part, or spread over the nodes of a cluster."""
