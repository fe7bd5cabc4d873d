"""Images on demand, the parts of systems/cdcgan/.

networks (G and D that take labels), trainer (their game), label_scores (how many of the labels
asked for are in the images), hold_out (combinations of labels that are kept back).
"""
