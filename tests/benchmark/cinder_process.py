# SPDX-License-Identifier: Apache-2.0
"""The double of Cinder in a process of its own, as Cinder is.

In the process of the benchmark it would share an interpreter lock with what
is measured.  Here: that process and the means to tell it of rows.  Not here:
what Cinder answers (tests/fixtures).
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import types
from typing import Any

from tests.fixtures.cinder import CinderDouble
from tests.fixtures.cinder_rows import Answer, Request


class CinderProcess:
    """Cinder, inside a `with` block; it ends with its starter in any case.

    :ivar endpoint: of the block-storage service
    """

    endpoint: str

    def __enter__(self) -> CinderProcess:
        self._child = subprocess.Popen(
            [sys.executable, '-m', __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.endpoint = self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._child.communicate()

    def add_snapshot(
        self, snapshot_id: str, volume_id: str, status: str = 'creating'
    ) -> None:
        """Add a row that compute is to report on."""
        self._call('add', snapshot_id, volume_id, status)

    def reported_at(self, snapshot_id: str) -> float:
        """When the report arrived that it is done; of time.monotonic(),
        which is the same in all processes.
        """
        return self._call('reported', snapshot_id)

    def remove_snapshot(self, snapshot_id: str) -> list[list[str]]:
        """Remove a row; status and progress of each report it has got."""
        return self._call('remove', snapshot_id)

    def _call(self, *words: str) -> Any:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(words) + '\n')
        return self._answer()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError('the double of Cinder ended; see above')
        return json.loads(line)


class Prompt(CinderDouble):
    """Cinder with a cinder-volume that sees at once that it was told.

    Else the agent would ask for the row again and again, in the midst of the
    next measurement.
    """

    def _process(self, request: Request, stopped: threading.Event) -> Answer:
        answer = super()._process(request, stopped)
        snapshot_id = request.snapshot_id
        if snapshot_id and (request.update or {}).get('progress') == '90%':
            if snapshot_id in self.snapshots:
                self.heed(snapshot_id)
        return answer

    def heed(self, snapshot_id: str) -> None:
        """cinder-volume sees what its row says."""
        if self.snapshots[snapshot_id].status == 'deleting':
            self.remove_snapshot(snapshot_id)
        else:
            self.set_snapshot(snapshot_id, 'available', '100%')

    def reported_at(self, snapshot_id: str) -> float:
        return self.wait_for(
            lambda: next(
                (
                    request.time
                    for request in reversed(self.requests)
                    if request.snapshot_id == snapshot_id
                    and (request.update or {}).get('progress') == '90%'
                ),
                None,
            ),
            timeout=120.0,
        )


def _main() -> None:
    with Prompt() as double:
        print(json.dumps(double.endpoint), flush=True)
        for line in sys.stdin:
            name, snapshot_id, *rest = json.loads(line)
            reply = None
            if name == 'add':
                double.add_snapshot(snapshot_id, *rest)
            elif name == 'reported':
                reply = double.reported_at(snapshot_id)
            else:
                reply = double.history(snapshot_id, applied=True)
                double.remove_snapshot(snapshot_id)
                # What is kept for ever would slow the later rounds down.
                if not double.snapshots:
                    double.requests.clear()
            print(json.dumps(reply), flush=True)


if __name__ == '__main__':
    _main()
