"""Benchmarks: each checks that what it times is right, then prints it beside what a user would run instead."""
