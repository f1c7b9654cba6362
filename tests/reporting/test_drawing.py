import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from optevolve.reporting.drawing import INK, SERIES, new_figure, svg, thinned, tidy


def figure(text="a", raster=False):
    drawn = new_figure(3, 2)
    axes = drawn.subplots()
    axes.scatter([0, 1], [0, 1], color=SERIES[0], rasterized=raster)
    tidy(axes, x=text, title=text)
    return drawn


def test_standalone_is_an_svg_file_in_light_colours():
    text = svg(figure(), "one", "", standalone=True)
    assert ET.fromstring(text).tag.endswith("svg")
    assert INK in text
    assert "var(" not in text


def test_text_stays_text():
    text = svg(figure("1 < 2 & $x$ </svg><script>"), "one", 'says "<b>"')
    assert "1 &lt; 2 &amp; $x$ &lt;/svg&gt;&lt;script&gt;" in text
    assert 'aria-label="says &#34;&lt;b&gt;&#34;"' in text
    assert text.count("</svg>") == 1


def test_same_figure_same_text_and_other_names_share_no_ids():
    assert svg(figure(), "one", "") == svg(figure(), "one", "")
    ids = [
        {e.get("id") for e in ET.fromstring(svg(figure(), name, "").replace("xlink:", "")).iter() if e.get("id")} for name in ("one", "two")
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_pixels_are_inlined():
    assert "data:image/png;base64," in svg(figure(raster=True), "one", "")


@given(st.integers(0, 5000), st.integers(2, 400))
def test_thinned_keeps_both_ends(length, most):
    kept = thinned(range(length), most)
    assert len(kept) <= most
    assert kept == sorted(set(kept))
    if length:
        assert (kept[0], kept[-1]) == (0, length - 1)
