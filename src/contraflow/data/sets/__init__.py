"""The named data sets, one a file: its files and their sums, what reads it, its line in the table."""
