"""What every function needs from its surroundings: settings, secrets, logs, traces, redaction."""
