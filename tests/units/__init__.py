# SPDX-License-Identifier: Apache-2.0
"""The sample of a systemd unit under a real systemd, with its sandbox on."""
