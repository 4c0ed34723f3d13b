"""Models: layers put together, with fit, predict and evaluate."""
