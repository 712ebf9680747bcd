"""PortaBilling: its API, its faults, what its raw answers mean, and how fresh they must be."""
