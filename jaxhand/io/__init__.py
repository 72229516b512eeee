"""Read and write files: pickles without running their code, array files with checksums, small helpers."""
