"""Helpers for several tests: small data sets in their documented layouts, models, files."""
