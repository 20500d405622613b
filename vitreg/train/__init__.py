"""Fine-tune one model on a folder of pictures: the part that `pip install "vitreg[train]"` brings."""
