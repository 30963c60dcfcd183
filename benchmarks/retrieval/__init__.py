"""How often a model finds the picture of a caption, and a caption of a picture."""
