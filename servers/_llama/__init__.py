"""A llama for engines that read files: its configuration, a tokenizer, random weights."""
