"""Super-resolution by a factor of 4: what systems/srgan.py needs and no other system does.

networks (two generators and the discriminator), resampling (what an image loses, and the upscalers
that learn nothing), scores, tiles (pictures of any size), files (a user's own).
"""
