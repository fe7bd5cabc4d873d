"""Images of a class that is asked for: the networks, the step and the sampling of BigGAN.

blocks.py the layers, spectral.py what keeps their weights in bounds, networks.py G and D by a table
of sizes, trainer.py the step, sampling.py what is drawn and of which class, scores.py the scores.
"""
