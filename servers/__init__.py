"""One framework per module, found by its name; what runs in a child process is beside it as ``_name_*``."""
