# SPDX-License-Identifier: Apache-2.0
"""What keeps this host from making snapshots, and what mends it.

One module for each subject, whose functions look and say what they found;
nothing is changed anywhere. Which are asked, and in which order, is said in
:mod:`nova_ext.cmd.doctor.examination`.
"""
