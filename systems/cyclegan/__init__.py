"""Translation between two sets of images without pairs."""
