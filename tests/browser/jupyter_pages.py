"""Widgets as people meet them: a real JupyterLab (and Notebook 7), a real kernel, a real Chromium. All offline.

    def test_it(book):
        page = book("from rlkit.widgets import ClipExplorer", "explorer = ClipExplorer(); explorer")
        page.press(page.slider("ε below"), "ArrowRight")
        expect(page.output(1)).to_contain_text("0.79")
        assert page.python("explorer.epsilon.value") == "0.21"

`book` (in conftest.py) makes a notebook of these cells, opens it, runs it and waits until the kernel is idle. What a
`Book` can do stands in its methods; everything else is Playwright's own (`book.page`).

One server and one browser serve all tests of a process. Chromium is the system's; nothing outside this machine is
reached, and what tries to is refused and noted (`Stage.outside`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Locator, Page, Playwright, Request, expect, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TOKEN = "rlkit"
PATIENCE = 1000 * int(
    os.environ.get("RLKIT_PATIENCE", "120")
)  # ms; kernels that import torch on a busy machine
TASK = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"

expect.set_options(timeout=PATIENCE / 4)


def chromium() -> str | None:
    """Where the system's Chromium or Chrome is, or None."""
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


class Stage:
    """The server and the browser; each is started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "notebooks"
        self.root.mkdir(parents=True)
        self.outside: list[str] = []  # addresses that a page wanted from elsewhere
        self._server: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._books = 0

    # -- the server -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        if self._server is None:
            self._start_server()
        return self._url

    def _start_server(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {  # nothing of the person at this machine is read or written
            name: str(self.folder / name.lower())
            for name in (
                "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
                "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR",
            )
        }  # fmt: skip
        config = Path(own["JUPYTER_CONFIG_DIR"]) / "labconfig"
        config.mkdir(parents=True)
        quiet = {"@jupyterlab/apputils-extension:announcements": True}  # it asks whether it may look for news
        (config / "page_config.json").write_text(json.dumps({"disabledExtensions": quiet}))
        paths = [str(REPOSITORY), str(REPOSITORY / "kernels"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._log = (self.folder / "server.log").open("wb")
        settings = [
            "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root", f"--IdentityProvider.token={TOKEN}",
            f"--ServerApp.root_dir={self.root}", "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
            "--ServerApp.terminals_enabled=False",
            "--ServerApp.shutdown_no_activity_timeout=900", "--MappingKernelManager.cull_idle_timeout=600",
        ]  # fmt: skip
        self._server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *settings],
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its kernels end with it, and a Ctrl-C here does not reach them twice
        )
        written = Path(own["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{self._server.pid}.json"
        until = time.monotonic() + PATIENCE / 1000
        while not written.exists():  # it stands there once the server listens, with the port that was free
            if self._server.poll() is not None or time.monotonic() > until:
                raise RuntimeError("JupyterLab did not start:\n" + (self.folder / "server.log").read_text())
            time.sleep(0.1)
        self._url = f"http://127.0.0.1:{json.loads(written.read_text())['port']}"

    # -- the browser ------------------------------------------------------------------------------------

    @property
    def browser(self) -> Browser:
        if self._browser is None:
            self._playwright = sync_playwright().start()
            options = ["--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"]
            options.append(
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
            )  # nothing but this machine
            if os.geteuid() == 0:
                options.append("--no-sandbox")  # Chromium has none for root
            self._browser = self._playwright.chromium.launch(executable_path=chromium(), args=options)
        return self._browser

    def open(self, cells: tuple[str, ...], front: str = "lab", width: int = 1280, run: bool = True) -> Book:
        """A new notebook of these code cells, opened in a tab of its own and run."""
        self._books += 1
        name = f"book{self._books}.ipynb"
        code = [nbformat.v4.new_code_cell(cell) for cell in cells]
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=code, metadata=spec), self.root / name)
        book = self.open_file(name, front, width)
        if run:
            book.run()
        return book

    def open_file(self, name: str, front: str = "lab", width: int = 1280, height: int = 900) -> Book:
        """A notebook of the folder `root`, opened in a tab of its own."""
        context = self.browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(PATIENCE)
        context.on("requestfailed", self._note)
        book = Book(self, context.new_page(), name, front)
        book.open()
        return book

    def _note(self, request: Request) -> None:
        """Requests to elsewhere fail (`--host-resolver-rules`), and are remembered."""
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    # -- the end ----------------------------------------------------------------------------------------

    def close_browser(self) -> None:
        """Playwright's event loop holds the thread for as long as it lives: other tests could start none."""
        if self._browser is not None and self._playwright is not None:
            self._browser.close()
            self._playwright.stop()
        self._browser = self._playwright = None

    def close(self) -> None:
        self.close_browser()
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)  # it takes its kernels along
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._server.pid, signal.SIGKILL)
            self._log.close()
        self._server = None


class Book:
    """A notebook in a tab. Cells are counted from 0; `where` is a locator to look in, by default all outputs."""

    def __init__(self, stage: Stage, page: Page, name: str, front: str) -> None:
        self.stage, self.page, self.name, self.front = stage, page, name, front
        self.alerts: list[str] = []  # dialogs of the browser's own, which nothing here may open
        self.errors: list[str] = []  # JavaScript that failed
        page.on("dialog", self._refuse)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _refuse(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.alerts.append(dialog.message)
        dialog.accept()

    # -- notebook and kernel ------------------------------------------------------------------------------

    def open(self) -> None:
        """Open it; there is a kernel afterwards, and it is idle."""
        place = {
            "lab": f"/doc/workspaces/{self.name.removesuffix('.ipynb')}/tree/{self.name}",
            "notebook": f"/notebooks/{self.name}",
        }[self.front]
        self.page.goto(f"{self.stage.url}{place}?token={TOKEN}")
        self._ready()
        self.errors.clear()  # the front end's own, while it starts

    def _ready(self) -> None:
        self.page.wait_for_function(f"{TASK.removeprefix('() => ')}?.status === 'idle'", timeout=PATIENCE)
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()

    def command(self, name: str, **arguments: Any) -> None:
        """Carry a command of JupyterLab's out and wait until it is done."""
        call = "([name, a]) => window.jupyterapp.commands.execute(name, a).then(() => null)"
        self.page.evaluate(call, [name, arguments])

    def run(self) -> None:
        """Run all cells and wait until they are done."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.finished()

    def finished(self) -> None:
        """Wait until every cell is done. A cell that raised fails the test, with its traceback."""
        self.page.wait_for_function(  # every code cell has its number, none a star
            "() => window.jupyterapp.shell.currentWidget.content.widgets.every("
            "cell => cell.model.type !== 'code' || cell.model.executionCount !== null"
            " || !cell.model.sharedModel.source)",
            timeout=PATIENCE,
        )
        self.settle()
        failed = self.page.locator('.jp-OutputArea [data-mime-type="application/vnd.jupyter.error"]')
        assert failed.count() == 0, "\n".join(failed.all_inner_texts())

    def python(self, expression: str) -> str:
        """What the kernel prints for an expression: a str as it is, everything else by its repr."""
        code = f"_value = ({expression})\nprint(_value if isinstance(_value, str) else repr(_value), end='')"
        return self.execute(code)

    def execute(self, code: str) -> str:
        """Run code in the kernel, beside the notebook; returns what it printed. Raises what it raised, as text."""
        script = f"""async code => {{
            const request = ({TASK})().requestExecute({{code, store_history: false}});
            let printed = '';
            request.onIOPub = m => {{ if (m.header.msg_type === 'stream') printed += m.content.text; }};
            const reply = await request.done;
            if (reply.content.status !== 'ok')
                throw new Error(reply.content.traceback?.join('\\n') ?? reply.content.status);
            return printed;
        }}"""
        return str(self.page.evaluate(script, code))

    def settle(self) -> None:
        """Wait until the kernel has dealt with everything that was sent, and the page has drawn it."""
        for _ in range(2):  # ipywidgets holds a second change back until the first is dealt with
            self.execute("")
            self.page.wait_for_function(f"{TASK.removeprefix('() => ')}?.status === 'idle'", timeout=PATIENCE)
            self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 30)))")

    def restart_kernel(self) -> None:
        """Restart the kernel as people do: by the menu's command, and its question answered with yes."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('kernelmenu:restart') }")
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()
        self.page.locator(".jp-Dialog").wait_for(state="detached")
        self._ready()
        self.settle()

    def reload(self) -> None:
        """Save the notebook and load the page again; the kernel runs on."""
        self.command("docmanager:save")
        self.page.reload()
        self._ready()
        self.settle()

    def close(self) -> None:
        """Close the tab and end the kernel."""
        try:
            self.page.evaluate(
                "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.shutdown()?.then(() => null)"
            )
        finally:
            self.page.context.close()

    # -- what is on the page ------------------------------------------------------------------------------

    def output(self, cell: int = -1) -> Locator:
        """What a cell put out (its code is not part of it); -1: the last cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea")

    def _in(self, where: Locator | None) -> Locator:
        return self.page.locator(".jp-Notebook") if where is None else where

    def control(self, label: str, where: Locator | None = None) -> Locator:
        """The row of a slider, field or menu whose description is `label`."""
        return (
            self._in(where)
            .locator(".widget-inline-hbox, .widget-inline-vbox")
            .filter(has=self.page.locator(f".widget-label:text-is({json.dumps(label, ensure_ascii=False)})"))
        )

    def slider(self, label: str, where: Locator | None = None) -> Locator:
        """The handle of a slider: focus it, press keys, drag it."""
        return self.control(label, where).locator(".noUi-handle").first

    def readout(self, label: str, where: Locator | None = None) -> Locator:
        """The number beside a slider."""
        return self.control(label, where).locator(".widget-readout")

    def button(self, name: str, where: Locator | None = None) -> Locator:
        """A button by its text; its icon, a letter of a font of signs, is not part of that."""
        return self._in(where).locator("button", has_text=re.compile(rf"^\s*{re.escape(name)}\s*$"))

    def tick(self, label: str, where: Locator | None = None) -> Locator:
        """A box to tick, by its label."""
        return self._in(where).get_by_role("checkbox", name=label, exact=True)

    def alt(self, beginning: str, where: Locator | None = None) -> str:
        """The description of the picture whose description begins so, as a screen reader has it."""
        return self.picture(beginning, where).get_attribute("aria-label") or ""

    def picture(self, beginning: str, where: Locator | None = None) -> Locator:
        """The picture whose description begins so."""
        return self._in(where).locator(f'svg[aria-label^="{beginning}"]').first

    # -- what people do -----------------------------------------------------------------------------------

    def press(self, target: Locator, *keys: str) -> None:
        """Focus something, press keys, wait until it is dealt with. Notebook 7 keeps the arrow keys from sliders."""
        target.wait_for()  # what is not drawn yet takes no focus
        target.focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def drag(self, handle: Locator, share: float) -> None:
        """Drag a slider's handle with the mouse to a share of its way: 0 left, 1 right."""
        handle.scroll_into_view_if_needed()
        track = handle.locator("xpath=ancestor::div[contains(@class, 'noUi-base')]").bounding_box()
        grip = handle.bounding_box()
        assert track and grip
        y = grip["y"] + grip["height"] / 2
        self.page.mouse.move(grip["x"] + grip["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + share * track["width"], y, steps=6)
        self.page.mouse.up()
        self.settle()

    def click(self, target: Locator) -> None:
        """Click, and wait until it is dealt with."""
        target.click()
        self.settle()

    def choose(self, label: str, option: str, where: Locator | None = None) -> None:
        """Choose from a menu (Dropdown)."""
        self.control(label, where).locator("select").select_option(label=option)
        self.settle()

    # -- looks ----------------------------------------------------------------------------------------------

    def theme(self, name: str) -> None:
        """ "light" or "dark"."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name.title()}")
        says = json.dumps("true" if name == "light" else "false")
        self.page.wait_for_function(f"() => document.body.dataset.jpThemeLight === {says}")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")  # it covers the page for a moment

    def width(self, pixels: int) -> None:
        """Make the window so wide."""
        self.page.set_viewport_size({"width": pixels, "height": 900})
        self.settle()

    def overflow(self, where: Locator | None = None) -> float:
        """By how many pixels a widget's content reaches beyond its right edge: 0 where the layout fits."""
        widest = """box => {
            const edge = box.getBoundingClientRect().right;
            const counts = one => !one.closest('.scroll, .text, .noUi-target, svg') && one.getClientRects().length;
            const beyond = one => one.getBoundingClientRect().right - edge;
            return Math.max(0, ...[...box.querySelectorAll('*')].filter(counts).map(beyond));
        }"""
        return float(self._in(where).locator(".rlkit").first.evaluate(widest))

    def shot(self, name: str, where: Locator | None = None) -> None:
        """Keep a picture, `<name>.png`, if RLKIT_SCREENSHOTS names a folder."""
        folder = os.environ.get("RLKIT_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            target = self.output() if where is None else where
            size = self.page.viewport_size or {"width": 1280, "height": 900}
            height = (target.first.bounding_box() or size)[
                "height"
            ]  # a front end cuts off what is out of its window
            self.page.set_viewport_size({"width": size["width"], "height": int(height) + 300})
            self.settle()
            target.first.screenshot(path=str(Path(folder) / f"{name}.png"))
            self.page.set_viewport_size(size)

    def shots(self, name: str, where: Locator | None = None) -> None:
        """Pictures light and dark, wide and at 400 pixels (`<name>_dark_400.png`), if RLKIT_SCREENSHOTS is set."""
        if os.environ.get("RLKIT_SCREENSHOTS"):
            for pixels in (1280, 400):
                self.width(pixels)
                for theme in ("light", "dark"):
                    self.theme(theme)
                    self.shot(f"{name}_{theme}_{pixels}", where)
            self.theme("light")
            self.width(1280)
