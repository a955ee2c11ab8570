"""The whole study: its parts, which GPUs run them when, and the processes that do."""
