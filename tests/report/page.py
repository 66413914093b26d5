"""Opens report.html in headless Chromium at phone and desktop width, light and dark: it has to draw everything, write nothing to the console,
load nothing, and not be wider than the screen. Writes the pictures beside it.

    page.py REPORT.html FOLDER
"""

import base64
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

WIDTHS = {"phone": (390, 844, True), "desktop": (1440, 900, False)}
PATIENCE = 60


class Browser:
    """Chromium's own debugging protocol over a WebSocket: no driver is needed."""

    def __init__(self, profile):
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        self.process = subprocess.Popen([*command, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL)
        port_file, patience = pathlib.Path(profile, "DevToolsActivePort"), time.monotonic() + PATIENCE
        while not (port_file.exists() and port_file.read_text().count("\n")):
            if time.monotonic() > patience:
                raise SystemExit("chromium did not start")
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self.socket = socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE)
        path = page["webSocketDebuggerUrl"].split("/", 3)[3]
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        assert b" 101 " in head, head
        self.number, self.events = 0, []

    def read(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(min(count - len(data), 1 << 20))
            if not more:
                raise SystemExit("chromium closed the connection")
            data += more
        return data

    def message(self):
        text = b""
        while True:
            first, second = self.read(2)
            size = second & 127
            if size >= 126:
                size = struct.unpack(">H" if size == 126 else ">Q", self.read(2 if size == 126 else 8))[0]
            text += self.read(size)
            if first & 128:
                return json.loads(text)

    def send(self, method, **parameters):
        self.number += 1
        data = json.dumps({"id": self.number, "method": method, "params": parameters}).encode()
        size = struct.pack(">BH", 0x80 | 126, len(data)) if 126 <= len(data) < 65536 else struct.pack(">B", 0x80 | len(data))
        self.socket.sendall(b"\x81" + size + b"\0\0\0\0" + data)
        while True:
            message = self.message()
            if message.get("id") == self.number:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def value(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")


def check(browser, url, folder, device, scheme):
    width, height, mobile = WIDTHS[device]
    browser.events.clear()
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.send("Page.navigate", url=url)
    patience = time.monotonic() + PATIENCE
    while not browser.value("document.documentElement?.dataset.ready === 'true'"):
        if time.monotonic() > patience:
            raise SystemExit(f"{device}, {scheme}: the page did not get ready: {browser.events}")
        time.sleep(0.2)
    time.sleep(0.5)
    name = f"{device}, {scheme}"
    wide = browser.value("document.documentElement.scrollWidth")
    assert wide <= width, f"{name}: the page is {wide} pixels wide"
    figures = browser.value("[...document.querySelectorAll('.figure')].map((one) => one.querySelectorAll('svg.main-svg').length > 0 && one.scrollWidth <= one.clientWidth + 1)")
    assert len(figures) >= 7 and all(figures), f"{name}: {figures}"
    words = browser.value("document.body.innerText")
    for word in ["divergent", "consistent", "stale_weights", "Sign convention", "noise floor"]:
        assert word in words, f"{name}: {word!r} is missing"
    assert not [word for word in ["undefined", "NaN", "[object"] if word in words], name
    # Every tab can be shown, and every token of a heat map has its numbers.
    tokens = browser.value("(() => { let tokens = 0; for (const tab of document.querySelectorAll('[role=tab]')) { tab.click(); tokens = Math.max(tokens, document.querySelectorAll('.text .t').length); } return tokens; })()")
    assert tokens > 50, f"{name}: {tokens} tokens"
    tip = browser.value("(() => { document.querySelector('.text .t').dispatchEvent(new MouseEvent('mouseover', { bubbles: true })); return document.getElementById('tip').innerText; })()")
    assert all(word in tip for word in ["engine e", "reference r", "d = r", "rank", "entropy"]), f"{name}: {tip}"
    browser.value("[...document.querySelectorAll('.tabs')].forEach((tabs) => tabs.isConnected && tabs.children[0].click()); document.getElementById('tip').hidden = true")
    time.sleep(0.5)
    tall = browser.value("document.documentElement.scrollHeight")
    picture = browser.send("Page.captureScreenshot", captureBeyondViewport=True, clip={"x": 0, "y": 0, "width": width, "height": tall, "scale": 1})
    pathlib.Path(folder, f"page-{device}-{scheme}.png").write_bytes(base64.b64decode(picture["data"]))
    loaded = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    outside = [one for one in loaded if one != url and not one.startswith(("data:", "blob:"))]
    assert url in loaded and not outside, f"{name}: loads {outside}"
    said = [event for event in browser.events if event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")]
    assert not said, f"{name}: the console has {json.dumps(said)[:2000]}"
    print(f"{name}: {len(figures)} figures, {tokens} tokens, {tall} pixels tall, nothing loaded, console empty")


def main():
    page, folder = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        try:
            for domain in ["Page", "Runtime", "Network", "Log"]:
                browser.send(f"{domain}.enable")
            for device in WIDTHS:
                for scheme in ["light", "dark"]:
                    check(browser, page.as_uri(), folder, device, scheme)
        finally:
            browser.process.terminate()
            browser.process.wait(timeout=PATIENCE)


main()
