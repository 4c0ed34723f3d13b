"""The counterparts of the files of `engine` for a GPU, under the same names, and how kernels are launched."""
