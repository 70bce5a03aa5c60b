"""The command ``faceflax app``: what it says before and beside the server, which has tests of its own."""

from __future__ import annotations

import webbrowser

from faceflax.cli import app


def test_without_a_browser_the_address_is_said_and_no_secret(monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "_tryorder", [])  # what a machine without one has
    app._open("http://127.0.0.1:7860/", "a secret of many letters").join()
    said = capsys.readouterr().err
    assert said == "no browser could be opened here: open http://127.0.0.1:7860/ in one, or start with --no-browser\n"
