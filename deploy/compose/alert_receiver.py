#!/usr/bin/env python3
"""Prints every notification that Alertmanager sends (its webhook body, version 4). Stands in for a chat or a pager until there is one.

    alert_receiver.py [--listen 0.0.0.0:9095] [--out FILE]    FILE gets one body a line, as it came
"""

import argparse
import http.server
import json
import sys


class Receiver(http.server.BaseHTTPRequestHandler):
    out = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.out:
            with open(self.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(body | {"path": self.path}) + "\n")
        for alert in body["alerts"]:
            labels = ", ".join(f"{name}={value}" for name, value in sorted(alert["labels"].items()) if name != "alertname")
            print(f"{self.path} {alert['status']}: {alert['labels']['alertname']} ({labels})", flush=True)
            print(f"    {alert['annotations'].get('description', '')}", flush=True)
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        """For health checks."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Notifications are the log."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", default="0.0.0.0:9095")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    Receiver.out = arguments.out
    server = http.server.ThreadingHTTPServer((host, int(port)), Receiver)
    print(f"receiving on http://{host}:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
