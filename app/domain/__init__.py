"""Judge proposals and size orders: pure rules, without clock, I/O or environment."""
