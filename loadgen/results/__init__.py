"""Results on disk: a line a trial, its samples, the searches, and other folders that hold the same trials."""
