"""Segmentation heads, one file each."""
