"""The block layer: nodes over real files, who uses which of them for what, and the locks that follow."""
