"""Super-resolution by a factor of 4: what systems/srgan/ needs and no other system does.

config, networks (two generators and the discriminator), resampling (what an image loses, and the
upscalers that learn nothing), positions (the square's eight: trained on, and the mean over them),
beginning (with the G of another run), scores, tiles (pictures of any size), files (a user's own).
"""
