"""Super-resolution by a factor of 4."""
