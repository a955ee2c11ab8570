"""What Triton needs, for ``triton`` and ``ft``: found, described, assembled; and the model in its process."""
