"""Training: configuration, the jitted step, the loop with its checkpoints and logs, and evaluation."""
