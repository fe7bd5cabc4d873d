"""i-CLEVR without Blender: pictures drawn by rays.

geometry (what a ray meets), shading (its colour), scenes (where things lie), folder (files).
"""
