"""Readers of file formats, one a file; none can run what a file says."""
