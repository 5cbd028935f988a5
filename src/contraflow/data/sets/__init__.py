"""The named data sets, one module each: published files and md5 sums, loader, and entry in the table."""
