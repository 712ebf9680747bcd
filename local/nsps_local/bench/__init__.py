"""``make bench``: what the product does in numbers, beside what it aims at.

One run measures a whole stack of its own, with a temporary state and free ports, and ends
everything that it started. How each figure comes about: docs/performance.md.
"""
