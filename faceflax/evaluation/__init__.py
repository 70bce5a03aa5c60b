"""How good weights are: metrics, intervals, calibration, faces as the detector cuts them out, the report page."""
