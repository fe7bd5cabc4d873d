"""The parts of systems/vae/: networks, the two terms of the bound, pixels, scores, pictures."""
