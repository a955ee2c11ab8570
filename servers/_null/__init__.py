"""What runs in the process of framework ``null``."""
