"""Requests are counted by kinds of which there are only so many."""

from __future__ import annotations

from tallystick.operations.traffic import OTHER, UNMATCHED, Traffic


def test_requests_are_counted_by_template_method_and_class_of_status() -> None:
    traffic = Traffic()
    for status in (200, 201, 404, 503):
        traffic.note("/a/{key}", "GET", status, 0.004, None)
    counts = {kind: sum(durations.counts) for kind, durations in traffic.seconds.items()}
    assert counts == {("/a/{key}", "GET", 2): 2, ("/a/{key}", "GET", 4): 1, ("/a/{key}", "GET", 5): 1}
    assert traffic.errors == {"http_404": 1, "http_503": 1}
    traffic.note("/a/{key}", "GET", 404, 0.004, "not_found")
    assert traffic.errors == {"http_404": 1, "http_503": 1, "not_found": 1}


def test_whatever_callers_make_up_is_one_kind() -> None:
    traffic = Traffic()
    for number in range(1000):
        traffic.note(None, f"M{number}", 404, 0.001, "not_found")
    traffic.note("/ping", "BREW", 405, 0.001, "method_not_allowed")
    counts = {kind: sum(durations.counts) for kind, durations in traffic.seconds.items()}
    assert counts == {(UNMATCHED, OTHER, 4): 1000, ("/ping", OTHER, 4): 1}
