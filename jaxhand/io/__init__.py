"""Reading and writing files: pickles without running code, array files, small helpers."""
