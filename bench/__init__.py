"""What the proxy costs, measured beside nginx, HAProxy and Envoy in the same run.

`python -m bench` runs everything and writes the tables of `README.md`, which also says how each figure is made.
"""
