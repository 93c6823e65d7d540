"""Side-by-side benchmarks: `python -m bench list | run | render`."""
