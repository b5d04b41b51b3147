"""Effects on the host: processes, files, accelerators, packages. Nothing above may touch them directly."""
