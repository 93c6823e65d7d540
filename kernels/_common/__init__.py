"""What every op shares: registration, checks, random numbers, tiling."""
