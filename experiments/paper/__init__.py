"""The study's claims as experiments, each of which ends in a sentence with a number and its interval.

Arriaga, Valdenegro-Toro and Plöger, "Real-time Convolutional Neural Networks for Emotion and Gender Classification",
2017 (arXiv:1710.07557), and the thesis behind it, whose figure numbers are used here.

Commands::

    python -m experiments.paper                       # everything; FER-2013 and FairFace prepared
    python -m experiments.paper --only glasses        # one claim or several
    python -m experiments.paper --dataset-gender imdb --weights-mini-gender FILE --weights-sequential-gender FILE
    python -m experiments.paper --quick               # a rehearsal on synthetic faces: its numbers mean nothing

``out/paper/report.html`` has everything. A finished claim is kept in ``out/paper/records`` and a finished training in
``out/paper/trainings``, so that a run which was stopped continues from there with the same command. Claims share what
they train alike.

Rules: networks are fitted to the training split; what is chosen is chosen on PublicTest, or on the held-out tenth of
FairFace's training set; PrivateTest, or FairFace's published validation set, gives the final number and decides
nothing. Trainings here are short (8 epochs against 30 for the shipped weights), alike for both sides of a comparison,
and the last step's weights are taken.

Time, estimated for two quiet cores from 0.8 ms an image and step of mini_xception at 48x48 (1.3 ms on one core):

=================== ==================================================== ==========
claim               trainings of an epoch of FER-2013 (FairFace)          minutes
=================== ==================================================== ==========
``sizes``           12 of tang_cnn                                        10
``pipeline``        none                                                  1
``confusions``      none                                                  1
``interpretability`` none                                                 3
``glasses``         none                                                  2
``chaining``        9 x 8                                                 28
``multilevel``      none                                                  6
``choices``         10 x 8 more, and eyes found in 36,000 faces           40
``finetuning``      3 x 8, 6 x 3, 6 x 0.6 more (6 x 6, 6 x 3, 6 x 0.6)    45
=================== ==================================================== ==========
"""

from __future__ import annotations

CLAIMS = (
    "sizes",
    "pipeline",
    "confusions",
    "interpretability",
    "glasses",
    "chaining",
    "multilevel",
    "choices",
    "finetuning",
)
"""The modules, in the order of the report. Each has ``TITLE``, ``CLAIM`` (what the study says, in our words), ``NEEDS``
(the weights it takes), ``FULL`` and ``QUICK`` (configurations) and ``run(study, config)``, which returns a
:class:`~experiments.paper.record.Result`."""
