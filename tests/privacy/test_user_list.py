"""Lists of user ids as editors and spreadsheets save them."""

from __future__ import annotations

import codecs

import pytest

from alure_spark.errors import ConfigError, LakeError, LeftoverError
from alure_spark.privacy.user_list import asked, forms, read_ids, require_ids, unmatched_named


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"u1\nu2\nu3\n", ["u1", "u2", "u3"]),
        (b"u1\r\nu2\r\nu3", ["u1", "u2", "u3"]),
        (b"u1\ru2\ru3\r", ["u1", "u2", "u3"]),
        (b"\xef\xbb\xbfu1\r\n\r\n \t\r\nu2 \r\nu1\r\n", ["u1", "u2 ", "u1"]),
        (codecs.BOM_UTF8 + b"u1\n" + codecs.BOM_UTF8 + b"u2\n", ["u1", "\ufeffu2"]),
        ("müller\nu\u20281\n\u00a0\n".encode(), ["müller", "u\u20281"]),
        (b"u1\x0bu2\x1cu3", ["u1\x0bu2\x1cu3"]),
    ],
)
def test_lines_are_read_whichever_way_an_editor_ends_them(tmp_path, content, expected):
    (tmp_path / "ids").write_bytes(content)
    assert read_ids(tmp_path / "ids") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("u1\nu2\n".encode("utf-16"), "is UTF-16; allowed: UTF-8"),
        (codecs.BOM_UTF16_BE + "u1\n".encode("utf-16-be"), "is UTF-16"),
        ("u1\nu2\n".encode("utf-32"), "is UTF-32"),
        (codecs.BOM_UTF32_BE + "u1\n".encode("utf-32-be"), "is UTF-32"),
        ("u1\n".encode("utf-16-le"), "is not a text"),
        (b"u1\n\0", "is not a text"),
        (b"u1\nm\xfcller\n", r"is not UTF-8 \(line 2 holds the byte 0xfc\)"),
        (b"PK\x03\x04\x99\x88", "is not UTF-8"),
        (b"", "holds no user id"),
        (codecs.BOM_UTF8, "holds no user id"),
        (b"\r\n \r\n\xc2\xa0\r\n\xe2\x80\x8b", "holds no user id"),
    ],
)
def test_what_is_no_list_of_ids_is_refused_with_a_sentence(tmp_path, content, message):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(ConfigError, match=f"the list of users .*ids {message}"):
        read_ids(tmp_path / "ids")


def test_a_list_that_cannot_be_opened_is_refused_with_a_sentence(tmp_path):
    for path in (tmp_path / "missing", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match=r"the list of users .* cannot be read \(.+\)"):
            read_ids(path)


def test_an_id_is_what_is_written_and_then_what_is_left_without_blanks_around_it():
    assert forms("u1") == ("u1",)
    for written in (" u1", "u1 ", "\tu1\u00a0", "\ufeffu1", "u1\u200b", "u1\u3000 "):
        assert forms(written) == (written, "u1")
    for written in ("U1", "0007", "u 1", '"u1"', "u1,", "\u0130"):
        assert forms(written) == (written,), "nothing else is guessed"


@pytest.mark.parametrize(
    ("users", "message"),
    [([], "nobody to forget"), ([""], "a user id is ''"), (["u1", " \t"], "not blank"), (["\udcff"], "is not UTF-8")],
)
def test_nobody_and_blank_ids_are_refused(users, message):
    with pytest.raises(ConfigError, match=message):
        require_ids(users)
    require_ids(["u1", " u2 "])


def test_a_command_line_names_users_or_nobody_and_not_both(tmp_path):
    (tmp_path / "ids").write_text("u2\n")
    assert asked(["u1"], str(tmp_path / "ids"), nobody=False) == ["u1", "u2"]
    assert asked([], "", nobody=True) == []
    for users, file in ((["u1"], ""), ([], "no such file")):
        with pytest.raises(ConfigError, match="--vacuum forgets nobody"):
            asked(users, file, nobody=True)
    with pytest.raises(ConfigError, match="nobody to forget"):
        asked([], "", nobody=False)


@pytest.mark.parametrize(("strict", "word"), [(False, "warning"), (True, "error")])
def test_ids_without_a_row_are_named_at_the_end_also_where_files_are_left_over(capsys, strict, word):
    with pytest.raises(LeftoverError, match="busy"), unmatched_named(["a", "b", "b"], strict) as unmatched:
        unmatched.append("b ")
        raise LeftoverError("busy")
    assert f"{word}: 1 of 2 ids matched no row of any table: 'b '. An id must be" in capsys.readouterr().err


def test_strict_ends_with_exit_code_3_and_a_failure_names_nobody(capsys):
    with pytest.raises(SystemExit) as ended, unmatched_named(["a"], strict=True) as unmatched:
        unmatched.append("a")
    assert ended.value.code == 3
    capsys.readouterr()
    with pytest.raises(LakeError, match="planted"), unmatched_named(["a"], strict=True) as unmatched:
        unmatched.append("a")
        raise LakeError("planted")
    assert capsys.readouterr().err == "", "nothing was erased"
