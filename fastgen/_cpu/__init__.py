"""What makes PyTorch quick on a CPU: C compiled on the spot, and library operations chosen by measurement."""
