"""Run Debian's Prometheus and ask it, by its HTTP API, what it scraped."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Prometheus", "Series"]

#: Labels of a series -> its newest value.
Series = dict[tuple[tuple[str, str], ...], float]

_PORT = 9090  # nothing else listens in a guest
_CONFIG = """
global: {scrape_interval: 2s, scrape_timeout: 2s}
scrape_configs:
  - job_name: test
    static_configs: [{targets: ["%s"]}]
"""
# What Prometheus adds to every series.
_OWN_LABELS = {"__name__", "instance", "job"}


class Prometheus:
    """Run a Prometheus that scrapes one page every two seconds.

    :param target: HOST:PORT of the page
    :param directory: for its configuration and its data
    """

    def __init__(self, target: str, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{_PORT}"
        self.log = directory / "prometheus.log"
        config = directory / "prometheus.yml"
        config.write_text(_CONFIG % target)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{_PORT}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API. Wait while it starts."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(url) as answer:
                    said = json.load(answer)
            except urllib.error.HTTPError as error:
                text = error.read().decode()
                assert error.code == 503, f"{parameters}: {text}"  # it is still starting
            except urllib.error.URLError:  # it does not listen yet
                pass
            else:
                assert said["status"] == "success", said
                return said["data"]
            time.sleep(0.5)

    def query(self, expression: str) -> Series:
        """Return what an expression is now, by labels without those that Prometheus adds."""
        data = self.ask("query", query=expression)
        assert data["resultType"] == "vector", data
        return {
            tuple(sorted((k, v) for k, v in one["metric"].items() if k not in _OWN_LABELS)): float(
                one["value"][1]
            )
            for one in data["result"]
        }

    def by(self, label: str, expression: str) -> Mapping[str, float]:
        """Return what an expression is now, by the value of a label."""
        return {dict(labels)[label]: value for labels, value in self.query(expression).items()}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
