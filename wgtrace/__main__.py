# SPDX-License-Identifier: GPL-2.0-only
"""What `python3 -m wgtrace` and the launchers run.

Until the command line is there a Ctrl-C just ends the process, as it does any other: an
import that is interrupted shows a traceback.
"""

import signal

_handler = signal.getsignal(signal.SIGINT)
if _handler is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from wgtrace.cli import main  # noqa: E402 - see above

signal.signal(signal.SIGINT, _handler)
main()
