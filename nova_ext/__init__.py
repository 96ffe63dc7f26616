# SPDX-License-Identifier: Apache-2.0
"""Assisted volume snapshots of the Compute API, served by ourselves."""
