"""`make gpu-check`: builds, checks and times the CUDA kernels on the GPU of this machine. Runs from a checkout."""
