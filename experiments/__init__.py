"""Results and how they are made: recipes of the shipped weights, ablations, the study's claims, benchmarks, tools."""
