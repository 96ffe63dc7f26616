# SPDX-License-Identifier: Apache-2.0
"""Many cycles on one guest and one agent, with faults; see ``__main__``."""
