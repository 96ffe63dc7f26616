# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of whatever reads what a stranger wrote."""
