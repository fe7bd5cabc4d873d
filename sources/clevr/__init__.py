"""i-CLEVR without Blender: pictures drawn by rays."""
