"""``tally notice``: rules, previews, and what was raised."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Tally


def test_rules_and_a_preview(books: Tally, tmp_path: Path) -> None:
    books("customers", "create", "lab", "--name", "Lab", "--email", "lab@example.org", "--credit-policy", "prepaid")
    books("customers", "grant", "lab", "100")
    template = tmp_path / "mine.txt"
    template.write_text("Subject: $project: $credits_left\n\nAsk $desk.\n")
    own = books(
        "notice", "rule", "add", "share", "0.9", "--customer", "lab", "--to", "maintainers", "--to", "eve@example.org",
        "--copy", "governance", "--template", template, "--placeholder", "desk=the desk", "--json",
    ).document  # fmt: skip
    assert (own["recipients"], own["placeholders"]) == (["maintainers", "eve@example.org"], {"desk": "the desk"})
    listed = books("notice", "rule", "list", "--json").document["items"]
    assert [rule["threshold"] for rule in listed] == ["0.5", "0.2", "0", "0.9"]
    assert "eve@example.org" in books("notice", "rule", "list", "--customer", "lab").out
    shown = books("notice", "preview", own["id"], "lab").out
    assert shown.startswith("To: lab@example.org, eve@example.org\nSubject: Lab: 100.00\n\nAsk the desk.")
    page = tmp_path / "half.html"
    letter = books("notice", "preview", listed[0]["id"], "lab", "--html", page, "--json").document
    assert page.read_text() == letter["html"]
    refused = books("notice", "preview", own["id"], "lab", "--html", page)
    assert (refused.code, "has no HTML" in refused.err) == (2, True)
    debt = books("notice", "rule", "add", "balance", "-12.5", "--asset", "CREDIT", "--json").document
    assert debt["threshold"] == "-12.5"
    assert books("notice", "rule", "remove", own["id"]).code == 0
    assert books("notice", "rule", "remove", own["id"]).code == 1
    assert books("notice", "list", "--json").document == {"items": [], "next": None}


def test_what_is_refused(books: Tally, tmp_path: Path) -> None:
    template = tmp_path / "t.txt"
    for text in ("no subject\n\nb", "Subject: $nobody\n\nb"):
        template.write_text(text)
        refused = books("notice", "rule", "add", "share", "0.9", "--template", template)
        assert refused.code == 2, refused.err
    assert books("notice", "rule", "add", "share", "1.5").code == 2
    assert books("notice", "rule", "add", "share", "0.9", "--placeholder", "x").code == 2
    assert books("notice", "retry", "00000000-0000-0000-0000-000000000001").code == 1
