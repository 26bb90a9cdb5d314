"""`pyconv bench`: how fast this machine runs layers and networks, beside the peers it has.

cases.py, networks.py   what is measured   peers.py, numpy_peers.py      by whom
measure.py, memory.py   how                suites.py, command.py         in what order
report.py, views.py     what it says       compare.py, chart.py, screen.py
"""
