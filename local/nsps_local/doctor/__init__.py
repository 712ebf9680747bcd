"""What may be wrong with an NSPS, looked for before it hurts, and what to do about it."""
