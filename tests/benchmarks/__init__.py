"""Benchmarks report and never fail; a package, so that files may share names with the tests."""
