"""A run's timeline as a picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from poundlock.model.timeline import Timeline
from poundlock.model.timeline_entry import TimelineEntry


def timeline(*happened):
    """Return a timeline of (time, type, path, payload)."""
    entries = []
    for seq, (time, kind, *rest) in enumerate(happened, 1):
        path, payload = (*rest, None, None)[:2]
        entries.append(TimelineEntry(seq, time, "pipeline", kind, path or "main", payload, None))
    return Timeline("r1", entries)


RUN = [
    (0.0, "run:queued"),
    (1.0, "stage:start", "main/check"),
    (1.0, "step:start", "main/check/<size>"),
    (2.0, "step:success", "main/check/<size>"),
    (2.0, "stage:success", "main/check"),
    (2.0, "stage:start", "main/review"),
    (2.0, "stage:success", "main/review"),
    (2.0, "pipeline:pause", "main", {"wait": "review"}),
    (90_000.0, "pipeline:resume", "main", {"wait": "review", "reason": "timeout"}),
    (90_000.0, "stage:start", "main/merge"),
]


def bars(svg):
    """Return (class, x, width) of the bars of each row."""
    rows = {}
    for row in ET.fromstring(svg).iter():
        if "data-row" in row.attrib:
            found = [each for each in row if each.attrib.get("class", "").startswith("b-")]
            rows[row.attrib["data-row"]] = [
                (each.attrib["class"], float(each.attrib["x"]), float(each.attrib["width"])) for each in found
            ]
    return rows


def test_rows_and_bars():
    """There is a row per stage and step, and a bar per period of its kind, one beside the other."""
    rows = bars(timeline(*RUN).to_svg(now=90_001.0))
    assert list(rows) == ["(queued)", "check", "<size>", "review", "merge"]
    assert [[kind for kind, _, _ in found] for found in rows.values()] == [
        ["b-queue"],
        ["b-work"],
        ["b-work"],
        ["b-work", "b-pause"],
        ["b-work"],
    ]
    [(_, start, width)] = rows["check"]
    assert rows["(queued)"][0][1] <= start
    assert rows["review"][1][1] >= start + width - 0.1


def test_waiting_does_not_hide_the_work():
    """A day of waiting leaves the work room, the durations are the real ones, and the picture says so."""
    svg = timeline(*RUN).to_svg(now=90_001.0)
    assert bars(svg)["merge"][0][2] > 100
    assert "not drawn to scale" in svg
    assert "1 d" in svg
    assert "review: timed out after" in svg


def test_an_unfinished_run_ends_now():
    """The bar of work that goes on ends at `now`, or at the last entry."""
    assert "still working for 1.0 s" in timeline(*RUN).to_svg(now=90_001.0)
    assert "still working for 0.0 ms" in timeline(*RUN).to_svg()


def test_titles_and_texts_are_escaped():
    """Any title is shown as it is, and nothing of it is markup."""
    root = ET.fromstring(timeline(*RUN).to_svg(title='a<b>&"c\x00'))
    assert next(root.iter("{http://www.w3.org/2000/svg}title")).text == 'a<b>&"c\ufffd'


def test_a_run_without_timeline():
    """Where no timeline was kept, the picture says so."""
    assert "no timeline was kept" in timeline().to_svg()


def test_both_colour_schemes_know_every_class():
    """Each class that the picture uses has a colour on light and on dark screens."""
    svg = timeline(*RUN).to_svg()
    light, dark = re.findall(r"<style>(.*?)@media \(prefers-color-scheme: dark\)\{(.*)\}</style>", svg)[0]
    for name in set(re.findall(r'class="([\w-]+)"', svg)) - {"poundlock"}:
        assert f".poundlock .{name}{{" in light
        assert f".poundlock .{name}{{" in dark
