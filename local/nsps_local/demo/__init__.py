"""``make demo``: one subscriber's life through every system that has a real daemon here."""
