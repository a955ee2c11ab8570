"""What runs in the processes of framework ``ds``."""
