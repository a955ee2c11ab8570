"""llama.cpp: its weights in its file format."""
