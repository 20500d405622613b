"""Picture files: which of a folder's files are pictures, and how one of them is read."""
