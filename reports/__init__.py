"""What figures.py draws, one file for each report."""
