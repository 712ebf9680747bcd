"""What the functions do: one flow each, which its main.py wires and calls."""
