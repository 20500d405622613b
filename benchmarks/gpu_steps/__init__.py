"""What `benchmarks/gpu.py` does, step by step; torch is imported by the steps' own processes alone."""
