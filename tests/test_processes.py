"""Processes of their own: how their end is told."""

import signal

import pytest

from keras_hoyer.exporters.processes import run_process

END = "import os; os.kill(os.getpid(), {})"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", None),
        ("print('x' * 10**6)", None),
        ("raise RuntimeError('out of luck')", "failed: RuntimeError: out of luck"),
        ("import sys; sys.exit(7)", "failed: exit code 7"),
        (
            "import sys; sys.stderr.write('y' * 10**6 + '\\nlast\\n\\n'); sys.exit(1)",
            "failed: last",
        ),
        ("import sys; sys.stderr.buffer.write(b'\\xff\\n'); sys.exit(1)", "failed: \ufffd"),
        (END.format(signal.SIGKILL.value), "crashed with SIGKILL"),
        (END.format(signal.SIGSEGV.value), "crashed with SIGSEGV"),
        ("import time; time.sleep(60)", "hung: stopped after 2 s"),
    ],
)
def test_what_went_wrong_is_said(code, reason):
    assert run_process(["-c", code], 2 if "sleep" in code else 60) == reason


@pytest.mark.parametrize("number", range(signal.SIGRTMIN, signal.SIGRTMAX + 1, 5))
def test_a_real_time_signal_is_named_though_python_has_no_name_for_most(number):
    reason = run_process(["-c", END.format(number)], 60)
    assert reason.startswith("crashed with ")
    assert str(number) in reason or "SIGRT" in reason


def test_a_grandchild_that_lives_on_does_not_hold_it_up():
    code = "import subprocess; subprocess.Popen(['sleep', '20'])"
    assert run_process(["-c", code], 10) is None


def test_a_process_that_cannot_be_started_is_told():
    assert run_process(["-c", "x" * 10**7], 10).startswith("could not be started")
