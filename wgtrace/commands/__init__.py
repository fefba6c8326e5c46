# SPDX-License-Identifier: GPL-2.0-only
"""The commands, a module each: options in, exit status out. The work is done elsewhere."""
