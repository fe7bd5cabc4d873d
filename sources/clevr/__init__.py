"""i-CLEVR without Blender: pictures drawn by rays, and a classifier that says what a picture shows.

geometry (what a ray meets), shading (its colour), scenes (where things lie), evaluator.
"""
