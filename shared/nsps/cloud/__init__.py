"""Google Cloud as NSPS uses it: Firestore, Pub/Sub, tokens."""
