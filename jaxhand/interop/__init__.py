"""Weights of other projects: read from their files without their libraries, and mapped to our parameter names."""
