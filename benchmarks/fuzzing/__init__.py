"""Hostile files: made (seeds, *_inputs), read under guard in a process of their own (child, guards), and counted.

    seeds -> random_bytes and *_inputs -> server  ->  child: readers under guards  ->  outcome of each input

`benchmarks/fuzz.py` runs many of them and prints a table; tests/hostile/ runs a fixed choice.
"""
