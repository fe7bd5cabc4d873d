"""Translation between two sets of images without pairs, the parts of systems/cyclegan/.

unpaired (the two domains), networks, image_pool (old fakes for D), scores, files (a user's images).
"""
