"""loadgen: stand up llama inference servers, load them exactly, and say what the numbers mean."""

__version__ = "0.1.0"
