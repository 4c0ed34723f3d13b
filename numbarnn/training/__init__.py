"""Training: losses, optimisers, schedules, gradient clipping, callbacks and the progress display."""
