"""One decoder that reads an image, a waveform and a note as one sequence."""
