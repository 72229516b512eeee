"""What several tests share: small data sets in their documented layouts, models, files."""
