"""A labelled set of invented clinical notes, and scores for de-identification on it."""
