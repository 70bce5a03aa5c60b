"""What faceflax's speed is, beside its peers: plain Flax, ONNX Runtime, PyTorch, Captum and fer, on this machine's CPU.

Command::

    pip install -e '.[benchmark]'
    python scripts/benchmark.py --output benchmark.json --plot benchmark.png  # a quarter of an hour on two cores

How it is made fair:

* Each framework runs in a worker process of its own, one for one thread and one for two, pinned to as many cores before
  Python starts. Workers wait on a pipe and do not spin.
* They are asked in turn, a block of at least 60 ms each, so that a machine whose speed drifts drifts for all of them.
  Before a block there is a pause, for ONNX Runtime's threads spin for about 30 ms after a run (measured) and OpenMP's
  for 5. Then come 60 ms of calls that are not counted: on a virtual machine a core that has slept 0.2 s took 20 to
  60 ms until it helped a thread that does not spin (measured), so that with blocks of 20 ms and no such calls two
  threads seemed to be one.
* All have the same weights and inputs, and their numbers must agree within 1e-3 before their times are compared.
* Compilation is not counted, except in the rows about starts, which time whole processes.
* Each peer is used as its documentation advises for speed: ONNX Runtime with all graph optimisations, so that it folds
  BatchNorm itself; PyTorch in inference mode, channels last (a third of the other layout's time for sequential_cnn at
  batch 1, within a tenth of it elsewhere), with the fused AdamW.
* In ONNX Runtime's graph the pooling nodes pad. A graph exported from PyTorch, with pads of their own before them, took
  1.4 times as long; ``--onnx FILE`` measures with such a graph.
* The row ``live`` has the frames of a video one after the other, as fast as they are done: found, labelled for emotion
  and gender and drawn on, by faceflax; found and labelled for emotion alone, by fer, where ``pip install fer`` was run.
  A video's frames differ, one in 25 being searched whole, so its frames a second count as well.
  First each frame is done before the next; then, in threads, a frame is found while the one before it is labelled.
  ``--explain`` is all of it with each face's guided backpropagation. In how many frames a face is found stands beside
  the times; whether it is one, :mod:`experiments.detection.clips` says.
* The row ``files`` has photographs of 12 megapixels, cut from the demo's enlarged, and the demo's video as H.264: read
  and analysed as ``faceflax analyze`` does it, and one after the other with OpenCV and an analyzer, all with the preset
  ``fast``. Searched whole, the photographs show faces in faces too, which are not compared. Of the command itself, with
  two workers and with one, whole processes are timed, starts included.
* A time is the median of all timings; a ratio is faceflax's median over the peer's. In parentheses are the 10th and
  90th percentile, for a ratio those of the rounds.
"""

from __future__ import annotations
