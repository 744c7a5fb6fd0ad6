from html.parser import HTMLParser

import pytest
from PIL import Image

from hf_ssl.hub.space.gallery import show_illustration, show_neighbors
from hf_ssl.hub.space.image_index import Neighbor

NASTY = [
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "</span></figure><h1>",
    "<!-- a",
    "&lt;b&gt; & co",
    "{{value}} ${1 + 1} `x`",
    "Ähre |*_x_",
]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.attributes, self.comments = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert set(reader.tags) == {"div", "figure", "img", "figcaption", "b", "span"}
    assert not reader.comments
    images = [attributes for tag, attributes in zip(reader.tags, reader.attributes, strict=True) if tag == "img"]
    assert all(set(image) == {"src", "alt"} and image["src"].startswith("data:image/") for image in images)
    return reader.texts, images


@pytest.mark.parametrize("name", NASTY)
def test_a_class_name_is_shown_as_it_is(name):
    texts, images = read(show_neighbors([Neighbor(0, 0.91234, name, b"jpeg"), Neighbor(1, 0.5, None, b"jpeg")]))
    assert "".join(texts) == f"0.912{name}0.500"
    assert [image["alt"] for image in images] == [f"0.912 {name}", "0.500"]


def test_pictures_stand_in_the_order_of_their_titles():
    pictures = [Image.new("RGB", (8, 8), color) for color in ("red", "green")]
    texts, images = read(show_illustration(pictures, ["input", "<b>masked</b>"]))
    assert texts == ["input", "<b>masked</b>"]
    assert len(images) == 2 and images[0]["src"] != images[1]["src"]
