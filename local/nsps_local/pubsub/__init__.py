"""The embedded Pub/Sub: production's semantics on loopback, for the unmodified real client.

`server.PubSubServer` runs it in a thread of this process; `python -m nsps_local.pubsub` in a
process of its own. Clients find it by PUBSUB_EMULATOR_HOST.
"""
