"""Traces: files of requests as they once came, one reader for each format."""
