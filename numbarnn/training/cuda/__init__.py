"""The counterparts of the files of `training` for a GPU, under the same names."""
