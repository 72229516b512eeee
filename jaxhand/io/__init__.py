"""Reading and writing files: pickles without running code, checked array files, small helpers."""
