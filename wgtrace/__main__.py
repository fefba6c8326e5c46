# SPDX-License-Identifier: GPL-2.0-only
"""`python3 -m wgtrace`."""

from wgtrace.cli import main

main()
