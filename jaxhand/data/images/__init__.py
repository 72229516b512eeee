"""Encoded image files: header, decoding of no more than a crop needs, depth images."""
