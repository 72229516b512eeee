"""A trained network on new images: boxes, detection, prediction."""
