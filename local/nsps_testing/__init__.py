"""What a connector is tested with: the standard tests, and systems that misbehave."""
