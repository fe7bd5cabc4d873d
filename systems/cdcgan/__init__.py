"""Images that show the objects asked for."""
