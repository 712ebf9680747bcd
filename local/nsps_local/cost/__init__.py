"""What a deployment costs: counted operations, the recorded program, and a list of prices."""
