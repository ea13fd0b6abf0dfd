"""The digest of the code that decides a result: what changes it, and what must not."""

import pytest

from frost.cache.sources import imported, source_digest

SOURCE = '''
"""What it is about."""
from some_lines import line


def double(x):
    """Twice x."""
    if x is None:
        raise ValueError("no x")
    return 2 * x  # a comment


class Scan:
    name: str = Field("x", description="its name")
    """Its name."""
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_physics.py").write_text(SOURCE)
    return tmp_path / "some_physics.py"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("a comment", "another comment", True),
        ("Twice x.", "x and x.", True),
        ('    """Its name."""\n', "", True),
        ("def double", "\n\n\ndef double", True),
        ("2 * x ", "(2 * x) ", True),
        ('"no x"', '"x is needed"', True),
        ('ValueError("no x")', 'TypeError("no x")', False),
        ("2 * x", "x * 2", False),
        ("its name", "what it is called", True),
        ('Field("x"', 'Field("y"', False),
        ("name: str", "name: int", False),
        ("import line", "import line as stroke", False),
    ],
)
def test_it_is_of_what_the_code_does(module, old, new, same):
    before = source_digest("some_physics", "frost.mri.coils")
    module.write_text(SOURCE.replace(old, new))
    assert old in SOURCE and (source_digest("some_physics", "frost.mri.coils") == before) == same
    assert source_digest("frost.mri.coils", "some_physics") == source_digest("some_physics", "frost.mri.coils")


def test_it_is_of_all_that_the_module_imports_at_any_depth(module):
    module.write_text("def image(kspace):\n    from frost.mri.coils import rss\n    return rss(kspace)\n")
    assert {"some_physics", "frost.mri.coils"} <= imported("some_physics")
    assert "frost.mri.fourier" in imported("frost.cache.classical")


@pytest.mark.parametrize(
    "words", ["from frost.mri import coils", "import frost.mri.coils as rss", "from frost.mri.coils import rss"]
)
def test_however_it_is_imported(module, words):
    module.write_text(words + "\n")
    assert "frost.mri.coils" in imported("some_physics")


def test_relative_imports_count(tmp_path, monkeypatch):
    package = tmp_path / "frost_like"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text("from .blocks import Block\nfrom . import scaling\n")
    (package / "blocks.py").write_text("class Block: pass\n")
    (package / "scaling.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("frost.cache.sources.ROOT", "frost_like")
    assert imported("frost_like.net") == {f"frost_like{name}" for name in (".net", ".blocks", ".scaling", "")}


def test_modules_that_decide_no_number_are_left_out(module):
    module.write_text("x = 1\n")
    plain = source_digest("some_physics")
    plumbing = (
        "frost.cache.store",
        "frost.cache.produce",
        "frost.pipeline.places",
        "frost.pipeline.processes.ending",
        "frost.errors",
    )
    assert source_digest("some_physics", *plumbing) == source_digest("some_physics", "frost.cache.shards") != plain
    assert source_digest("some_physics", "frost.errors", "frost.pipeline.processes.ending") == plain


def test_alone_a_module_counts_itself_and_not_what_it_imports(module):
    module.write_text("from frost.mri.coils import rss\n")
    before = source_digest("frost.mri.fourier", alone=["some_physics"])
    assert before != source_digest("frost.mri.fourier", "some_physics") and before != source_digest("frost.mri.fourier")
    module.write_text("from frost.mri.coils import rss as root\n")
    assert before != source_digest("frost.mri.fourier", alone=["some_physics"])


def test_a_source_that_is_not_there_is_a_bug():
    with pytest.raises(ValueError, match="no source of frost_unknown"):
        source_digest("frost_unknown")
