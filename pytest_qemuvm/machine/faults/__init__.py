"""Faults on demand: what a test has go wrong in machines and networks, and how it becomes right again.

``ledger`` has what all faults have in common: a fault is an act and its inverse, and it heals at the end of
the test at the latest. One module for each kind of thing that fails; ``facade`` is what ``vm.faults`` gives.
"""
