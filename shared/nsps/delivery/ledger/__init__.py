"""The ledger: what each external system is believed to hold, and who may write it next.

``documents`` are what is kept, ``protocol`` decides (pure), ``ledger`` runs the decisions as
Firestore transactions. The protocol is specified and checked over every interleaving in
tests/model; change the model first.
"""
