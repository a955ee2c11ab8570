"""The claims that a report decides, a module for each kind of them."""
