"""FasterTransformer's checkpoint layout, its weights, and its container."""
