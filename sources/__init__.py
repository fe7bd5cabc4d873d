"""Where images come from: a module a dataset, and what they share.

mnist, stl10, emoji_data, iclevr and folder_data each give a split as NumPy arrays of bytes;
dataset.py keeps the registry. For files: image_files (folders and zips), pictures (one image),
decoding (many, in threads), image_cache (what is kept), image_folder (those that fid.py compares).
"""
