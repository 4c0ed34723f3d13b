"""The counterparts of the files of `layers` for a GPU, under the same names."""
