"""Who is in a frame: detectors, tracking, the crop, and the analyzers that label what was found."""
