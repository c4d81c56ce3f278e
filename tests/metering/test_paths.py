"""Slugs, paths and patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.metering import paths
from tallystick.metering.paths import MAX_PATH_CHARACTERS, MAX_SLUG_CHARACTERS, expression

LABELS = st.text("ab_1", min_size=1, max_size=3)
PATHS = st.lists(LABELS, min_size=1, max_size=6).map(".".join)


# Slugs and paths


@pytest.mark.parametrize(
    ("parts", "slug"),
    [
        (("app", "web"), "app_web"),
        (("app", "my-app.v2"), "app_my_app_v2"),
        (("svc", "aws-rds", "micro psql", "db!"), "svc_aws_rds_micro_psql_db_"),
        (("cforg", "größe"), "cforg_gr__e"),
        (("Space", "WEB_1"), "Space_WEB_1"),
        (("app", ""), "app_"),
        (("a\nb",), "a_b"),
    ],
)
def test_a_slug_is_its_parts_joined_with_every_character_that_is_none_of_a_word_replaced(
    parts: tuple[str, ...], slug: str
) -> None:
    assert paths.slug(*parts) == slug


@given(st.lists(st.text(), min_size=1))
def test_any_names_make_a_slug_that_stands_in_a_path(names: list[str]) -> None:
    if not "_".join(names):
        return
    slug = paths.slug(*names)
    assert re.fullmatch("[A-Za-z0-9_]{1,256}", slug)
    assert paths.check_path(slug, "path") == slug
    assert paths.slug(slug) == slug


def test_long_names_are_cut_and_stay_apart() -> None:
    long = "n" * MAX_SLUG_CHARACTERS
    assert paths.slug(long) == long
    one, other = paths.slug("app", long, "one"), paths.slug("app", long, "other")
    assert len(one) == len(other) == MAX_SLUG_CHARACTERS
    assert one != other
    assert paths.slug("app", long, "one") == one


@pytest.mark.parametrize("parts", [(), ("",)])
def test_a_path_without_a_slug_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="slug must not be empty") as refused:
        paths.path_below("apps.usage", *parts)
    assert refused.value.field == "slug"


def test_the_paths_of_a_platform() -> None:
    assert paths.app_path("x", "y-dev", "z") == "apps.usage.cforg_x.space_y_dev.app_z"
    service = paths.service_path("x", "y", "aws-rds", "micro", "db")
    assert service == "apps.usage.cforg_x.space_y.svc_aws_rds_micro_db"
    assert paths.orphan_path("z") == "orphan.app_z"
    longest = paths.service_path(*["n" * 300] * 5)
    assert len(longest) <= MAX_PATH_CHARACTERS


@pytest.mark.parametrize("path", ["thing", "thing.one", "_", "A.b.9", "a" * 256, ".".join(["a"] * 512)])
def test_a_path_is_labels_joined_by_dots(path: str) -> None:
    assert paths.check_path(path, "path") == path


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("", "labels"),
        (".", "labels"),
        ("thing.", "labels"),
        (".thing", "labels"),
        ("thing..one", "labels"),
        ("a-b", "labels"),
        ("ä", "labels"),
        ("a\n", "labels"),
        ("a\0", "labels"),
        ("a" * 257, "256"),
        (".".join(["a" * 200] * 6), "1024"),
    ],
)
def test_what_is_no_path_is_refused_by_name(path: str, rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule) as refused:
        paths.check_path(path, "under")
    assert refused.value.field == "under"
    assert str(refused.value).startswith("under must")


@pytest.mark.parametrize(
    ("space", "family"),
    [
        ("space_web_dev", "space_web"),
        ("space_web_test", "space_web"),
        ("space_web_stage", "space_web"),
        ("space_web_staging", "space_web"),
        ("space_web_prod", "space_web"),
        ("space_web_PROD", "space_web"),
        ("space_web", "space_web"),
        ("space_dev", "space"),
        ("space_dev_web", "space_dev_web"),
        ("space_contest", "space_contest"),
        ("space_web_dev_prod", "space_web_dev"),
        ("space_web_development", "space_web_development"),
    ],
)
def test_a_family_is_a_space_without_its_environment(space: str, family: str) -> None:
    assert paths.family(space) == family


@given(PATHS, PATHS)
def test_what_stands_within_a_path(path: str, top: str) -> None:
    labels, wanted = path.split("."), top.split(".")
    assert paths.is_within(path, top) == (labels[: len(wanted)] == wanted)
    assert paths.above(path) == [".".join(labels[:number]) for number in range(1, len(labels))]


# Patterns


def fits(path: str, pattern: str) -> bool:
    return re.match(expression(pattern), f"{path}.") is not None


@pytest.mark.parametrize(
    ("pattern", "fitting", "other"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "b.a.b", "aXb"]),
        ("a%.b", ["a.b", "ab.b", "a_x1.b"], ["b.b", "a.a.b"]),
        ("%a", ["a", "ba"], ["ab", "b.a"]),
        ("a_%|b", ["a_", "a_x", "b"], ["a", "bb", "a_.b"]),
        ("*", ["a", "a.b.c"], []),
        ("a.*", ["a", "a.b", "a.b.c"], ["ab", "b.a"]),
        ("*.b", ["b", "a.b", "a.a.b"], ["b.a", "ab"]),
        ("a.*{1,}", ["a.b", "a.b.c"], ["a"]),
        ("a.*{2}", ["a.b.c"], ["a.b", "a.b.c.d"]),
        ("a.*{,1}", ["a", "a.b"], ["a.b.c"]),
        ("a.*{1,2}.z", ["a.b.z", "a.b.c.z"], ["a.z", "a.b.c.d.z"]),
        ("a.*{0}", ["a"], ["a.b"]),
        ("a.*{,}", ["a", "a.b.c"], ["b"]),
        (
            "apps.usage.cforg_%.space_%.*{1,}",
            ["apps.usage.cforg_x.space_y.app_z", "apps.usage.cforg_x.space_y.a.b"],
            [
                "apps.usage.cforg_x.space_y",
                "orphan.app_z",
                "apps.usage.cforg_x.app_z",
                "x.apps.usage.cforg_x.space_y.z",
            ],
        ),
    ],
)
def test_what_fits_a_pattern(pattern: str, fitting: list[str], other: list[str]) -> None:
    assert [path for path in (*fitting, *other) if fits(path, pattern)] == fitting


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        ".",
        "a.",
        ".a",
        "a b",
        "a*",
        "*{}",
        "*{a}",
        "*{2,1}",
        "*{-1}",
        "*{1",
        "!a",
        "a@",
        "a|",
        "a|*",
        "(a)",
        "a\n",
        "ä",
        "*\n",
    ],
)
def test_what_is_no_pattern_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        expression(pattern)
    assert refused.value.field == "pattern"
    assert str(refused.value).startswith("pattern ")


@pytest.mark.parametrize(
    "pattern", ["a" * 513, "*{65}", "*{,65}", "*{65,}", "*{9999}", "*{0,9999}", ".".join(["*{,30}"] * 3)]
)
def test_patterns_have_limits(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="at most"):
        expression(pattern)


def slowly_fits(labels: list[str], pattern: list[str]) -> bool:
    """The definition of patterns, label by label, for short ones."""
    if not pattern:
        return not labels
    first, *rest = pattern
    if first.startswith("*"):
        least, most = 0, len(labels)
        if counts := first[2:-1]:
            low, _, high = counts.partition(",")
            least = int(low or 0)
            most = (int(high) if high else most) if "," in counts else least
        return any(slowly_fits(labels[taken:], rest) for taken in range(least, min(most, len(labels)) + 1))
    return bool(labels) and any(_like(labels[0], word) for word in first.split("|")) and slowly_fits(labels[1:], rest)


def _like(label: str, word: str) -> bool:
    if not word:
        return not label
    if word[0] == "%":
        return any(_like(label[taken:], word[1:]) for taken in range(len(label) + 1))
    return label[:1] == word[0] and _like(label[1:], word[1:])


WORDS = st.lists(st.text("ab_%", min_size=1, max_size=3), min_size=1, max_size=2).map("|".join)
COUNTS = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda two: f"*{{{two[0]},{two[0] + two[1]}}}")
STARS = st.one_of(st.sampled_from(["*", "*{1}", "*{1,}", "*{,2}"]), COUNTS)


@given(st.lists(st.one_of(WORDS, STARS), min_size=1, max_size=5), PATHS)
def test_an_expression_means_what_the_pattern_says(pattern: list[str], path: str) -> None:
    assert fits(path, ".".join(pattern)) == slowly_fits(path.split("."), pattern)
