"""timm's windowed, pooled and convolutional transformers: their blocks, and no attention of one token to all."""
