# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace: why WireGuard on Linux drops a packet, and what to change."""

__version__ = "0.1.0"
