"""`pyconv bench`: how fast this machine runs layers and networks, beside the peers it has.

cases.py, networks.py   what is measured          peers.py, numpy_peers.py   by whom
measure.py              how                       suites.py, memory.py       which, in what order
report.py, chart.py     what comes out            command.py                 the command
"""
