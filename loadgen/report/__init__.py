"""Results folders → tables, never with a GPU, a server or the network."""

FORMATS = ("html", "md", "csv", "parquet", "json", "png")
