"""What runs benchmarks, and reports, draws and compares their results."""
