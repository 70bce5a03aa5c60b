"""Results and how they are made: recipes of the shipped weights, ablations, the study's claims, benchmarks, tools.

Run from a clone, each as ``python -m experiments.NAME``; each file's docstring has its command and what came of it.

* ``recipes/``: one file a shipped weight, with its configuration, command and accuracy.
* ``ablations.py``: one change at a time to a short recipe; its rows are in ``ablations.json``.
* ``paper/``: the study's claims, each with the number that decides it.
* ``benchmarks/``: faceflax's speed beside its peers (``faceflax benchmark``).
* ``near_duplicates.py``: which of FER-2013's test images are in its training set too; the list is beside it.
* ``crop_margin.py``: how a detected face is to be cut out for a network.
* ``detection/``: how many faces are found, in photographs under all conditions and in videos.
* ``steadiness.py``: how often labels change in videos of faces whose expression does not.
* ``soak.py``: whether anything grows in the live loop over thousands of frames.
* ``xla_forms.py``: the forms of layers that were tried against XLA.
* ``tools/``: soft labels for training, and the model cards of shipped weights.
"""
