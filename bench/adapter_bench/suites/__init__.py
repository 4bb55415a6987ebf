"""Whole tables of measurements, row by row: `adapter-bench suite NAME --out DIR`."""
