"""What pytest leaves out where a package is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("apache_beam") else ["faceflax/batch/beam.py"]
