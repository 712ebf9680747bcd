"""Certify a connector: does it keep the published NSPS connector contract, and how well?

A case is data: what is sent, what is expected, why, and how to mend it. Cases are in ``cases``,
``run`` sends them, ``report`` writes what came. Needs no running stack.
"""
