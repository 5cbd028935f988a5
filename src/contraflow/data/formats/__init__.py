"""Readers of file formats, one module each; none executes anything that a file contains."""
