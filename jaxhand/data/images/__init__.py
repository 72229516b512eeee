"""Image files: read their headers, decode only the region that a crop needs, decode depth images."""
