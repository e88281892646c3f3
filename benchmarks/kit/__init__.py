"""What the benchmarks share: nets, timing by turns, files of results, tables."""
