# SPDX-License-Identifier: Apache-2.0
"""What the fakes of the unit tests can be asked, the real ones can too.

It is here because the real ones want libvirt.
"""

from __future__ import annotations

import inspect

import pytest

from nova_ext.virt import guest, host
from tests.unit.agent import fakes


@pytest.mark.parametrize(
    ('fake', 'real'), [(fakes.Guest, guest.Guest), (fakes.Host, host.Host)]
)
def test_fakes_take_what_the_real_ones_take(fake: type, real: type) -> None:
    asked = {
        name: method
        for name, method in inspect.getmembers(fake, inspect.isfunction)
        if not name.startswith('_')
    }
    assert asked
    for name, method in asked.items():
        taken = inspect.signature(getattr(real, name)).parameters.values()
        assert [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(method).parameters.values()
        ] == [(known.name, known.kind, known.default) for known in taken], name
