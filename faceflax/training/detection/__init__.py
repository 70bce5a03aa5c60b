"""Training a face detector: which places are taught which faces, the loss, and the loop."""
