"""Other machines, by a Ray cluster that the user started: reached, checked, and on one clock."""
