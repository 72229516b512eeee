"""jaxhand: train, test and ship networks that read the 3D hand from colour and depth images."""

__version__ = "0.1.0"
