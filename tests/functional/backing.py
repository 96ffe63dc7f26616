# SPDX-License-Identifier: Apache-2.0
"""What stands behind the commands and figures of README.rst and the API
reference: a test that runs them, or why none can; a command that prints them.

A command or figure that is not here fails test_documents.py.
"""

from __future__ import annotations

# Page, first line of the block → test that reads the block from the page.
RUN = {
    (
        'README.rst',
        'sh .ci/setup && .venv/bin/tox -e demo',
    ): 'tests/unit/test_readme.py',
    (
        'README.rst',
        'sh .ci/setup && .venv/bin/tox',
    ): 'tests/unit/test_readme.py',
    (
        'clients.rst',
        'curl --silent --show-error --fail-with-body --user '
        '"$USERNAME:$PASSWORD" \\',
    ): 'tests/clients/test_clients.py',
    (
        'README.rst',
        'curl -X DELETE -H "X-Auth-Token: $TOKEN" \\',
    ): 'tests/nova/test_mount.py',
    ('clients.rst', 'import os'): 'tests/clients/test_clients.py',
    ('clients.rst', 'import json'): 'tests/clients/test_clients.py',
    ('clients.rst', 'import base64'): 'tests/clients/test_clients.py',
    (
        'deployment.rst',
        '$ gunicorn --bind 127.0.0.1:8774 --workers 2 --threads 8 '
        '--timeout 330 \\',
    ): 'tests/deploy/servers.py',
    (
        'fleet.rst',
        'rabbitmqctl add_vhost nova_ext',
    ): 'tests/integration/test_bus_access.py',
    (
        'follow.rst',
        'nova-ext-manage job list --all --json',
    ): 'tests/integration/test_manage.py',
    (
        'gabbi.rst',
        'export NOVA_EXT_LARGEST="$(printf \'x%.0s\' $(seq 114688))"',
    ): 'tests/functional/test_gabbi_page.py',
    (
        'os-assisted-volume-snapshots.inc',
        '$ curl --get --request DELETE \\',
    ): 'tests/clients/test_clients.py',
}

# Page, first line of the block → why no test runs it.
NOT_RUN = {
    (
        'README.rst',
        'pip install .              # the plugin alone',
    ): 'by hand; tests/package/test_extras.py installs the wheel of it',
    (
        'README.rst',
        'export NOVA_EXT_NOVA_RELEASE=32.2.1 NOVA_EXT_NOVA_EVENTLET=1',
    ): 'another release of Nova, for half an hour: by hand for each release',
    (
        'README.rst',
        "pip install 'gabbi>=4.0'",
    ): 'HOST is of the reader; tests/functional/test_gabbi_page.py runs more',
    (
        'README.rst',
        'python3 -m venv .venv',
    ): 'all of "quick" within "quick"; .ci/run has its tests',
    (
        'README.rst',
        '.venv/bin/tox -e quick -- -k WORDS_OF_ITS_NAME',
    ): 'as above; .ci/run has "tox -e pep8"',
    ('clients.rst', 'ENDPOINT  USERNAME  PASSWORD'): 'names of variables',
    ('clients.rst', 'VOLUME  SNAPSHOT  NEW_FILE'): 'names of variables',
    (
        'follow.rst',
        "grep SNAPSHOT_ID /var/log/cinder/*.log | grep -o 'req-[0-9a-f-]*'",
    ): 'logs of a cloud; tests/integration/test_request_ids.py finds its ids',
    (
        'follow.rst',
        'journalctl -u nova-ext-api | grep REQUEST_ID',
    ): 'logs of a cloud; tests/integration/test_request_ids.py finds its ids',
    (
        'follow.rst',
        'journalctl -u nova-ext-agent | grep REQUEST_ID',
    ): 'logs of a cloud; tests/integration/test_request_ids.py finds its ids',
    (
        'follow.rst',
        'virsh domblklist --details INSTANCE_ID',
    ): 'commands of libvirt and QEMU, for an instance of the reader',
    ('gabbi.rst', "pip install 'gabbi>=4.0'"): 'tox does it for "quick"',
}

# Page → what has a figure, as it stands there → the command, or the test,
# that prints or compares it. Literal text is not looked at.
FIGURES = {
    'README.rst': {
        'CI has Debian 12, and the others': '.ci/packages',
        'Debian 12 3.11 9.0 7.2 all': '.ci/packages',
        'Debian 13 3.13 11.3 10.0 the': '.ci/packages',
        'Ubuntu 24.04 3.12 10.0 8.2 the': '.ci/packages',
        'Ubuntu 22.04 3.10 8.0 6.2 the': '.ci/packages',
        '438 requests, 99 listed differences': 'tox -e nova',
        '222 points, 0 losses, 0 false reports': 'tox -e crash -- --short',
        '441393152 bytes': 'tox -e crash -- --short',
        'each of the 32 ways': 'tox -e weaknesses',
        '32 of 32 closed': 'tox -e weaknesses',
        '`` 32 of 32,': 'tox -e weaknesses',
        '`` 13 of 32': 'tox -e weaknesses',
        '30 faults, 0 lost, 0 doubled; 38 with': 'tox -e fleet',
        '3145848 inputs, 0 faults': 'tox -e fuzz',
        '104 cycles, 53 faults, 0 lost, growth 1.8%': 'tox -e soak',
        '5045 cycles, 2751 faults, 0 lost, growth 0.8%': (
            'tox -e soak -- --hours 1'
        ),
        'Releases before 31': 'tox -e nova',
        'CI tries 34.0.0)': 'tox -e nova',
        '34.0.0 native native 33.0.2 native eventlet': 'tox -e nova',
        '32.2.1 eventlet eventlet 31.3.1 eventlet': 'tox -e nova',
        'Python 3.10 or later': 'tests/unit/test_python_versions.py',
    },
    'data-safety.rst': {
        'takes about 2 KiB': 'tests/unit/agent/test_journal.py',
        'come to 3 MB for': 'tests/unit/agent/test_journal.py',
        'about 10000 snapshots': 'tests/unit/agent/test_forgetting.py',
        'QEMU (7.2 and 10.0 were tried) dies': (
            'tests/integration/test_many_disks.py'
        ),
        'waiting for 10 seconds is': 'tests/integration/test_many_disks.py',
        '600 s for a creation and 7200 s for a deletion': (
            'tests/fixtures/cinder_volume.py'
        ),
        '222 points, 0 losses, 0 false reports': 'tox -e crash -- --short',
        '441393152 bytes': 'tox -e crash -- --short',
        '32 of 32 closed': 'tox -e weaknesses',
        '`` 32 of 32,': 'tox -e weaknesses',
        '`` 13 of 32': 'tox -e weaknesses',
    },
    'deployment.rst': {
        'mode 0711, since the API': 'tox -e units',
        '`` 0640, since a password': 'tox -e unprivileged',
        '`` 0640, with': 'tox -e units',
        'ends with 1 if something is': 'tests/unit/test_doctor.py',
    },
    'fleet.rst': {
        'RabbitMQ 4 wants': 'documents of RabbitMQ',
        '14.8 to 18.1': 'documents of oslo.messaging',
        'Python 3.10': 'documents of oslo.messaging',
    },
    'gabbi.rst': {
        'ends with 1 if something does': (
            'tests/functional/test_gabbi_run.py'
        ),
        'a Nova 34.0.0 answers': 'tox -e nova',
        'Bodies up to 112 KiB': 'tests/functional/gabbits/size-limit.yaml',
    },
    'index.rst': {'OpenAPI 3.1': 'tox -e openapi'},
    'upgrade.rst': {'(now 1)': 'tests/unit/agent/test_wire.py'},
    'conventions.inc': {
        'Versions 2.1 to 2.104 are supported': (
            'tests/functional/gabbits/microversion.yaml'
        ),
        '* - 2.1 to 2.74': 'tests/functional/gabbits/delete-bad-info.yaml',
        '* - 2.75 and later': 'tests/functional/gabbits/delete-bad-info.yaml',
        'has version 2.1.': 'tests/functional/gabbits/microversion.yaml',
    },
    'promises.inc': {
        'a real Nova (34.0.0 in CI; 33.0.2, 32.2.1 and 31.3.1 by hand)': (
            'tox -e nova'
        ),
        'Nova 31 counts that': 'tox -e nova',
        'waits 600 seconds for the creation and 7200 seconds': (
            'tests/fixtures/cinder_volume.py'
        ),
    },
}
# Pages of which one command prints all figures, which are others each time. By
# which part of it is said beside each of them, as test_documents.py sees.
OF_ONE_COMMAND = {'performance.rst': 'tox -e bench'}
