"""Ctrl-C in the middle of sending, at every place where Python can raise it, one after the other."""

import dis
import itertools
import sys

from pytest_qemuvm.qmp import wire

CHECKED = frozenset({"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"})
"""The instructions after which the interpreter runs the handlers of signals; between others it never does."""


class InterruptAt:
    """Raises KeyboardInterrupt in this thread at the n-th such place in the module."""

    def __init__(self, n):
        self.left = n
        self._instructions = {}

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(None)

    def _call(self, frame, event, _arg):
        if frame.f_code.co_filename == wire.__file__:
            frame.f_trace_opcodes = True
            return self._opcode
        return None

    def _opcode(self, frame, event, _arg):
        if event == "opcode" and self._follows_a_check(frame):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._opcode

    def _follows_a_check(self, frame):
        code = frame.f_code
        if code not in self._instructions:
            shown = list(dis.get_instructions(code))
            self._instructions[code] = {
                after.offset: before.opname in CHECKED for before, after in itertools.pairwise(shown)
            }
        return self._instructions[code].get(frame.f_lasti, False)


def test_an_interruption_anywhere_neither_repeats_a_byte_nor_holds_up_the_next(client, peer, in_thread):
    interrupted, n = 0, 0
    while True:
        n += 1
        point = InterruptAt(n)
        answering = in_thread(peer.answer_until, "then")
        try:
            with point:
                client.execute("now", {"number": n}, timeout=5)
        except KeyboardInterrupt:
            interrupted += 1
        assert client.execute("then", {"number": n}, timeout=5) == n
        heard = answering.result(10)
        # The interrupted command went out once or not at all, whole and in its order.
        expected = [("now", {"number": n}), ("then", {"number": n})]
        assert [(each["execute"], each["arguments"]) for each in heard] in (expected, expected[1:])
        if point.left > 0:
            break
    assert interrupted == n - 1 >= 10
