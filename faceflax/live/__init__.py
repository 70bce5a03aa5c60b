"""The real-time loop: stages in threads, overlay, keys."""
