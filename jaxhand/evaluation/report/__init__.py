"""The report of runs on a data set, or of a scored file of predictions: one HTML file that needs nothing else."""
