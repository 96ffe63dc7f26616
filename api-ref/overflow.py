# SPDX-License-Identifier: Apache-2.0
"""Whether built pages fit a desk's and a telephone's width, in a real browser.

``python api-ref/overflow.py`` wants ``chromium`` (of Debian) and what
``build.py`` has made; with ``--pictures DIRECTORY`` it takes one of each page.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import html
import http.server
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

TARGET = pathlib.Path(__file__).resolve().parent / 'build' / 'html'
WIDTHS = (1280, 375)

# NOTE: a window of the browser cannot be as narrow as a telephone; a frame
# can. What may be scrolled sideways by itself does not widen its page.
_FRAMES = """<!DOCTYPE html><pre id=found></pre><script>
const found = [];
async function look(page, width) {
    const frame = document.createElement('iframe');
    frame.width = width;
    frame.height = 800;
    frame.src = page;
    await new Promise(done => {
        frame.onload = done;
        document.body.append(frame);
    });
    const root = frame.contentDocument.documentElement;
    // The sections that are closed at first.
    for (const one of root.querySelectorAll('.collapse'))
        one.classList.add('show');
    if (root.scrollWidth > root.clientWidth) {
        const wide = [...root.querySelectorAll('body *')].filter(
            one => one.getBoundingClientRect().right > root.clientWidth + 1);
        const last = wide.pop();
        found.push([page, width, root.scrollWidth,
                    last ? last.outerHTML.slice(0, 120) : '']);
    }
    frame.remove();
}
(async () => {
    for (const page of PAGES)
        for (const width of WIDTHS) await look(page, width);
    document.getElementById('found').textContent = JSON.stringify(found);
})();
</script>"""
_FRAME = """<!DOCTYPE html><style>*{{margin:0;border:0}}</style>
<iframe src="{page}" width="{width}" height="{height}"></iframe>"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    """The pages, and beside them those that the browser is told to open."""

    made: dict[str, str]

    def do_GET(self) -> None:
        if self.path not in self.made:
            super().do_GET()
            return
        body = self.made[self.path].encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def _serving(made: dict[str, str]) -> Iterator[str]:
    handler = type('Handler', (_Handler,), {'made': made})
    with http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(handler, directory=TARGET)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def _browser(url: str, *options: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        # NOTE: noqa because only paths of ours go into this command.
        return subprocess.run(  # noqa: S603
            [  # noqa: S607
                *('chromium', '--headless', '--no-sandbox', '--disable-gpu'),
                *('--no-first-run', '--hide-scrollbars'),
                *(f'--user-data-dir={profile}', *options, url),
            ],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding='utf-8',
            timeout=300,
        ).stdout


def main() -> int:
    """Look, take pictures, print the figure, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--pictures', type=pathlib.Path)
    options = parser.parse_args()
    pages = sorted(path.name for path in TARGET.glob('*.html'))
    made = {
        '/frames': _FRAMES.replace('PAGES', json.dumps(pages)).replace(
            'WIDTHS', json.dumps(WIDTHS)
        )
    }
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    for page in pages if options.pictures else ():
        for width in WIDTHS:
            made[f'/{page}-{width}'] = _FRAME.format(
                page=page, width=width, height=2000
            )
    with _serving(made) as url:
        text = _browser(
            f'{url}/frames', '--virtual-time-budget=60000', '--dump-dom'
        )
        for name in made.keys() - {'/frames'}:
            width = name.rpartition('-')[2]
            picture = options.pictures / f'{name[1:]}.png'
            _browser(
                url + name,
                f'--screenshot={picture}',
                f'--window-size={max(int(width), 500)},2000',
            )
    (found,) = re.findall('<pre id="found">(.*?)</pre>', text, re.DOTALL)
    wide = json.loads(html.unescape(found))
    for page, width, has, what in wide:
        print(f'{page}: {has} px wide where {width} are: {what}')
    print(f'overflow: {len(pages)} pages, {len(wide)} too wide')
    return 0 if pages and not wide else 1


if __name__ == '__main__':
    sys.exit(main())
