"""How people lay out their pictures: a folder for each class, or a list of files."""
