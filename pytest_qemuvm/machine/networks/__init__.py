"""Networks between a test's VMs: what they are made of, who is connected to them, and their faults."""
