# SPDX-License-Identifier: Apache-2.0
"""The options of the service and of its agent, in groups of our own.

Inside nova-api these groups live in Nova's own configuration, hence names
that no option of Nova's has. The options of the Cinder client are where that
client is, in :mod:`nova_ext.cinder`. No file is read here, but in
:mod:`nova_ext.config`.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from oslo_config import cfg

API_GROUP = cfg.OptGroup('nova_ext', 'The HTTP service')
AGENT_GROUP = cfg.OptGroup('nova_ext_agent', 'The agent of a hypervisor')
RPC_GROUP = cfg.OptGroup('nova_ext_rpc', 'The backend for many hosts')
NOVA_GROUP = cfg.OptGroup('nova_ext_nova', 'The backend inside nova-api')

api_opts = [
    cfg.StrOpt(
        'auth_strategy',
        default='keystone',
        choices=[
            ('keystone', 'keystonemiddleware checks tokens'),
            (
                'http_basic',
                'users and bcrypt passwords in the file of '
                '[oslo_middleware] http_basic_auth_user_file; each of them '
                'has the role "service"',
            ),
            (
                'noauth',
                'everybody may do everything; loopback only, and never '
                'behind a proxy, which makes every request one of loopback',
            ),
        ],
        help='How callers prove who they are: which pipeline of the paste '
        'file is used.',
    ),
    cfg.StrOpt(
        'compute_api',
        default='libvirt',
        help='The backend that does the work, by the name of its entry '
        'point in the namespace nova_ext.compute.',
    ),
    cfg.StrOpt(
        'max_microversion',
        default='2.104',
        regex=r'^2\.[1-9][0-9]{0,4}$',
        help='The highest microversion that is answered. Set it to that of '
        'the Nova beside which this service runs.',
    ),
    cfg.StrOpt(
        'api_paste_config',
        default='api-paste.ini',
        help='The PasteDeploy file: a path, or a name that is looked for in '
        'the configuration directories and then among the installed files.',
    ),
    cfg.StrOpt(
        'host',
        default='127.0.0.1',
        help='The address that nova-ext-serve listens on. Other WSGI servers '
        'have an option of their own.',
    ),
    cfg.PortOpt(
        'port', default=8774, help='The port that nova-ext-serve listens on.'
    ),
    cfg.FloatOpt(
        'request_timeout',
        default=30.0,
        min=0.1,
        help='Seconds within which nova-ext-serve must have all of a '
        'request, and a client take the answer. The size of a body is '
        'limited by [oslo_middleware] max_request_body_size.',
    ),
    cfg.IntOpt(
        'max_header_bytes',
        default=65536,
        min=1024,
        help='Bytes that the request line and the headers of a request to '
        'nova-ext-serve may have.',
    ),
    cfg.IntOpt(
        'max_connections',
        default=256,
        min=1,
        help='Connections that nova-ext-serve has at a time; each is a '
        'thread. Further ones are answered 503.',
    ),
]

agent_opts = [
    cfg.StrOpt(
        'host',
        default=socket.gethostname(),
        sample_default="<this host's name>",
        help="The name of this hypervisor, as Cinder shows it in a volume's "
        'attachments.',
    ),
    cfg.StrOpt(
        'state_dir',
        default='/var/lib/nova_ext',
        help='Where the agent keeps its journal and its lock. It must '
        'survive a reboot.',
    ),
    cfg.StrOpt(
        'socket',
        default='$state_dir/agent.sock',
        help='The UNIX socket by which the API of this host reaches the '
        'agent; at most 107 bytes.',
    ),
    cfg.StrOpt(
        'socket_group',
        help='The group that may send the requests of the API by the socket, '
        'for an API that runs as another user than the agent; the socket '
        'must be in a directory that the group may search. Without it only '
        'root and the user of the agent may, who alone may do what '
        'nova-ext-manage does.',
    ),
    cfg.BoolOpt(
        'rpc',
        default=False,
        help='Whether API processes of other hosts may ask this agent, by '
        'the message bus that transport_url names. Theirs are the two '
        'methods of the API and a look at the status, nothing else.',
    ),
    cfg.StrOpt(
        'libvirt_uri',
        default='qemu:///system',
        help='The libvirt of this host. A URI of another machine is refused.',
    ),
    cfg.MultiStrOpt(
        'nova_config_file',
        default=[],
        help='On a host of Nova the configuration of nova-compute, as it is '
        'given that; may be set more than once. After a snapshot Nova is '
        'told, by its conductor, which file the instance is to be started '
        'from. Without it an agent does not start where Nova has guests, and '
        'makes no snapshot of one. The agent must be installed where '
        'nova-compute is.',
    ),
    cfg.StrOpt(
        'reports',
        choices=[
            ('cinder', 'as [nova_ext_cinder] says'),
            ('none', 'nowhere: for demos and tests of clients'),
        ],
        help='Where the outcome of a snapshot is reported. An agent that is '
        'not told this does not start.',
    ),
    cfg.FloatOpt(
        'reply_wait',
        default=20.0,
        mutable=True,
        min=0.1,
        max=300.0,
        help='Seconds that a request waits for its job to be reported; after '
        'them it is answered and the job goes on. A request that has not '
        'been started by then is never started, unless it waits for another '
        'disk of its instance. It must be the same for the API and for its '
        'agents, whose clocks must agree.',
    ),
    cfg.StrOpt(
        'quiesce',
        default='auto',
        mutable=True,
        choices=[
            ('auto', 'freeze file systems if the guest agent answers'),
            ('required', 'refuse the snapshot if they cannot be frozen'),
            ('never', 'do not ask the guest agent'),
        ],
        help="Whether the guest's file systems are frozen for the switch.",
    ),
    cfg.FloatOpt(
        'freeze_limit',
        default=10.0,
        mutable=True,
        min=1.0,
        help='Seconds after which a frozen guest is thawed come what may.',
    ),
    cfg.IntOpt(
        'bandwidth',
        default=0,
        mutable=True,
        min=0,
        help='MiB per second that one merge may read and write; 0 for no '
        'limit. "nova-ext-manage job limit" changes it while a merge runs.',
    ),
    cfg.FloatOpt(
        'file_timeout',
        default=5.0,
        mutable=True,
        min=0.1,
        help='Seconds that a look at a file of a share may take. After them '
        'the share counts as hung and requests for it are refused.',
    ),
    cfg.IntOpt(
        'create_deadline',
        default=570,
        mutable=True,
        min=10,
        max=590,
        help='Seconds from a request to create a snapshot until Cinder must '
        'have its report. Cinder itself gives up after 600.',
    ),
    cfg.IntOpt(
        'delete_deadline',
        default=7000,
        mutable=True,
        min=10,
        max=7190,
        help='Seconds from a request to delete a snapshot until its merge is '
        'cancelled. Cinder itself gives up after 7200.',
    ),
    cfg.BoolOpt(
        'cancel_late',
        default=True,
        mutable=True,
        help='Whether a merge is cancelled at delete_deadline. If it is not, '
        'Cinder will have given up when the merge is done, and take note of '
        'it when its administrator resets the snapshot and it is deleted '
        'again.',
    ),
    cfg.FloatOpt(
        'history_days',
        default=30.0,
        min=0.00001,
        help='Days for which a job is remembered, counted from its end; less '
        'than one is for tests. A repeated request is recognised by it, so '
        'as long as an instance of this host has the volume, it is forgotten '
        'only when Cinder does not know the snapshot any more, and no '
        'earlier job of the volume is under way or needs an operator.',
    ),
    cfg.FloatOpt(
        'stop_wait',
        default=20.0,
        mutable=True,
        min=0.0,
        max=300.0,
        help='Seconds for which an agent that was told to stop still works '
        'for those who wait for an answer. After them they are answered as '
        'after reply_wait, and the next agent goes on with their jobs.',
    ),
    cfg.PortOpt(
        'metrics_port',
        min=1,
        help='Where Prometheus may read numbers by HTTP: jobs by state, their '
        'durations, bytes merged, requests refused. Without it there are '
        'none. Needs nova_ext[metrics].',
    ),
    cfg.StrOpt(
        'metrics_address',
        default='127.0.0.1',
        help='The address that goes with metrics_port. Whoever reaches it may '
        'read the numbers, which have no names or ids in them.',
    ),
]


rpc_opts = [
    cfg.IntOpt(
        'silence',
        default=4,
        min=2,
        max=60,
        help='Seconds of silence after which the agent of a host counts as '
        'dead. One that works on a request is heard of twice in that time.',
    ),
    cfg.FloatOpt(
        'remember_host',
        default=60.0,
        min=0.0,
        help='Seconds for which Cinder is not asked again on which host a '
        'volume is. It is asked at once when that host says that it does not '
        'have it.',
    ),
]

_LEFT_TO_NOVA = (
    'If not, such a request goes on to Nova as it came, and past all other '
    'guards.'
)

nova_opts = [
    cfg.BoolOpt(
        'refuse_suspended',
        default=True,
        help='Whether a volume of a suspended instance is refused. Its saved '
        'memory names the old file, so that it would resume on a file that '
        'Cinder counts as frozen.',
    ),
    cfg.BoolOpt(
        'refuse_rescued',
        default=True,
        help='Whether a volume of a rescued instance is refused. Nova goes '
        'back to the files that it wrote down when the rescue began, so that '
        'what is written after a snapshot would be lost.',
    ),
    cfg.BoolOpt(
        'refuse_host_down',
        default=True,
        help='Whether a request is refused while the compute service of the '
        'instance is down. It would be done when the service returns, '
        'perhaps long after Cinder has given up and removed the file.',
    ),
    cfg.BoolOpt(
        'refuse_paths',
        default=True,
        help='Whether a new_file, file_to_merge or merge_target_file that is '
        'a path is refused. By one the caller could have QEMU open any file '
        f'that it may read. {_LEFT_TO_NOVA}',
    ),
    cfg.BoolOpt(
        'refuse_bad_delete_info',
        default=True,
        help='Whether a delete_info is refused that is not the JSON text of '
        'an object with a volume_id that is text. Nova answers most with '
        'status 500, and takes null for the disk of another instance. '
        f'{_LEFT_TO_NOVA}',
    ),
    cfg.BoolOpt(
        'refuse_multi_attach',
        default=True,
        help='Whether the DELETE for a volume that several instances have is '
        'answered 400, as the POST is. Nova answers it with status 500. '
        f'{_LEFT_TO_NOVA}',
    ),
    cfg.BoolOpt(
        'wrap_not_found',
        default=True,
        help='Whether what else Nova does not find is a 404 in the envelope '
        'of faults. Nova answers with one that is text, or with status 500. '
        f'{_LEFT_TO_NOVA}',
    ),
    cfg.StrOpt(
        'fence',
        default='auto',
        choices=[
            ('auto', 'if [nova_ext_cinder] has an auth_type'),
            ('required', 'always; without credentials nothing starts'),
            ('never', 'not at all'),
        ],
        help='Whether Cinder is told, right before the hypervisor is, that '
        'it begins. Where Cinder does not await it nothing is started, and '
        'progress of an earlier attempt, on which Cinder would remove a file '
        'in use, is wiped out.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Make our options known to `conf`. May be called more than once."""
    for group, options in list_opts():
        # NOTE: by its name: what is registered by the same object, and what
        # is set there, would be in every configuration (a shallow copy).
        conf.register_opts(options, group=group.name)


def list_opts() -> list[tuple[cfg.OptGroup, Sequence[cfg.Opt]]]:
    """What oslo-config-generator shows."""
    return [
        (API_GROUP, api_opts),
        (AGENT_GROUP, agent_opts),
        (RPC_GROUP, rpc_opts),
        (NOVA_GROUP, nova_opts),
    ]


def override(conf: cfg.ConfigOpts, name: str, value: str) -> None:
    """Set what the section of the filter in Nova's paste file says.

    :param name: of an option of ``[nova_ext]`` or ``[nova_ext_nova]``
    :raises: oslo_config.cfg.Error, ValueError
    """
    group = NOVA_GROUP if name in conf.nova_ext_nova else API_GROUP
    conf.set_override(name, value, group=group.name)
