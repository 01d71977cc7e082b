"""Checkpoints that are whole or not there, and never trusted without their hashes."""
