"""Machines: the only place that makes handles. A session, its VMs, and what a running VM consists of."""
