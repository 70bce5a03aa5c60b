"""What interpret's methods do on networks as people write them: the matrix in docs/interpret/matrix.md.

``python -m experiments.interpretation`` runs every method on every network of
:mod:`experiments.interpretation.networks` and compares it, where a peer has the method, with the peer's answer on a
PyTorch twin that has the same weights.
"""
