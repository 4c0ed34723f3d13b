"""What compiled code is written in: vectors, activations, atomic operations, scratch memory; its cache."""
