"""The parts of systems/vae.py: networks, the two terms of the bound, pixels, scores, pictures."""
