# SPDX-License-Identifier: Apache-2.0
"""What a snapshot costs, beside what it can't cost less than.

``python -m tests.benchmark [--short]``. Nothing here is a test: no cost passes
or fails, and the suite does not collect these modules.
"""
