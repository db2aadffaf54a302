"""What benchmarks.ranking compares with. Each peer runs in a Python of its own, made from the text file of its name."""
