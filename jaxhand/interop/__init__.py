"""Reads the weights of other projects from files, without the projects' libraries, and converts them to our models."""
