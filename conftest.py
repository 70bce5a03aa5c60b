"""What pytest leaves out where a package is not installed."""

from importlib.util import find_spec

NEEDS = {
    "apache_beam": ["faceflax/batch/beam.py"],
    "gradio": ["faceflax/app/page.py"],
    "fastapi": ["faceflax/app/page.py", "faceflax/app/rest.py", "faceflax/app/server.py"],
    "uvicorn": ["faceflax/app/server.py"],
}

collect_ignore = [file for package, files in NEEDS.items() if not find_spec(package) for file in files]
