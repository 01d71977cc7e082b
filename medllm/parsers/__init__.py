"""Text of tools → dataclass, or `ValueError` that names the line. Pure: no files, no clock, no network.

A parser never fills in what the text does not say: a field that the tool prints as `N/A` is None, and a text that is
empty, cut off or of another tool is an error.
"""
