"""Kinds of devices, one module each: what QEMU must be told to have one, as data. No effects."""
