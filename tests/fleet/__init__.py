# SPDX-License-Identifier: Apache-2.0
"""Faults in a fleet: API workers, a broker, agents, guests; and what is left.

Each test is one fault with a defined end. What was lost and what was done
twice is looked for after each, in the guests' disks and in what libvirt and
Cinder were asked (judge.py), not in what anybody says of himself.
"""
