import os


class Child:
    """A child process and its death, as the process layer hands it to the client."""

    def __init__(self, process, log):
        self.process = process
        self.pidfd = os.pidfd_open(process.pid)
        self._log = log

    def fileno(self):
        return self.pidfd

    def status(self):
        return self.process.poll()

    def log_tail(self):
        return self._log.read_text()

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.pidfd)
