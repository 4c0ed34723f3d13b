"""The time loops of the CPU: `forward`, `backward` and `weight_gradients`."""
