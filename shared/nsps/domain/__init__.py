"""What an event, a snapshot, a subscriber and an outcome are: rules without I/O."""
