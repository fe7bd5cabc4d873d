"""Images of a class that is asked for."""
