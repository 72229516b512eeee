"""Encoded image files: their headers, decoding of the part that a crop needs, depth images."""
