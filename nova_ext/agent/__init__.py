# SPDX-License-Identifier: Apache-2.0
"""The agent of one hypervisor: jobs that survive whatever crashes."""
