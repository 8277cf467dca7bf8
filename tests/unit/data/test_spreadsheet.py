"""Workbooks, made of the XML that is in them."""

import io
import zipfile
from pathlib import Path

import pytest

from semievol.data import readers
from semievol.data.tables import cell_text
from semievol.errors import UserError

_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def text(value: str) -> str:
    return f'<c t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'


def number(value: object, style: int = 0) -> str:
    return f'<c s="{style}"><v>{value}</v></c>'


def workbook(*sheets: list[list[str]]) -> bytes:
    """A workbook whose style 1 is a date and 2 a date with a time."""
    numbers = range(1, len(sheets) + 1)
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships {_PACKAGE}><Relationship Id="r" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {_MAIN} xmlns:r="{_OFFICE}"><sheets>'
        + "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="r{n}"/>' for n in numbers)
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f"<Relationships {_PACKAGE}>"
        + "".join(f'<Relationship Id="r{n}" Type="{_OFFICE}/worksheet" Target="worksheets/s{n}.xml"/>' for n in numbers)
        + f'<Relationship Id="st" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet {_MAIN}><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="22"/></cellXfs></styleSheet>',
    }
    for n, rows in zip(numbers, sheets, strict=True):
        cells = "".join(f"<row>{''.join(row)}</row>" for row in rows)
        parts[f"xl/worksheets/s{n}.xml"] = f"<worksheet {_MAIN}><sheetData>{cells}</sheetData></worksheet>"
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return sink.getvalue()


def test_the_first_sheet_with_rows_and_values_as_they_look(tmp_path: Path) -> None:
    header = [text("text"), text(" label "), text("at")]
    body = [
        [text("Größe, &quot;x&quot;\nsecond line"), number(3), number(45322, 1)],
        [text("b"), number(3.8), number(45322.5, 2)],
        ["<c/>", "<c/>", "<c/>"],
        [text("c"), '<c t="b"><v>1</v></c>', "<c/>"],
        [text("d"), '<c t="str"><v>007</v></c>', text("2024-01-31")],
    ]
    (tmp_path / "a.XLSX").write_bytes(workbook([], [["<c/>"], header, *body], [[text("other")]]))
    notes: list[str] = []
    rows = dict(readers.read(str(tmp_path / "a.XLSX"), ["text"], None, notes))
    cells = [
        tuple(cell_text(row, name, 1_000) for name in ("text", "label", "at"))
        for row in rows.values()
        if isinstance(row, dict)
    ]
    assert cells == [
        ('Größe, "x"\nsecond line', "3", "2024-01-31"),
        ("b", "3.8", "2024-01-31 12:00:00"),
        ("c", "true", ""),
        ("d", "007", "2024-01-31"),
    ]
    assert len(set(rows)) == 4 and notes == ["has more sheets; 'S2' is read"]
    assert readers.columns(str(tmp_path / "a.XLSX")) == ["text", "label", "at"]


def test_an_empty_workbook_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(workbook([]))
    assert list(readers.read(str(tmp_path / "a.xlsx"))) == [] and readers.look(str(tmp_path / "a.xlsx")).empty


def test_what_is_no_workbook_or_too_much_of_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.xls").write_text("<html><table><tr><td>text</td></tr></table></html>")
    (tmp_path / "cut.xlsx").write_bytes(workbook([[text("a")]])[:300])
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/worksheets/s1.xml", b" " * (200 << 20))
    for name in ("page.xls", "cut.xlsx", "bomb.xlsx"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read to its end: .*Repair"):
            list(readers.read(str(tmp_path / name)))


def test_of_two_columns_with_one_name_the_first_is_read(tmp_path: Path) -> None:
    sheet = [[text("text"), text("label"), text(" text ")], [text("a"), text("x"), text("b")]]
    (tmp_path / "t.xlsx").write_bytes(workbook(sheet))
    look = readers.look(str(tmp_path / "t.xlsx"))
    assert look.columns == ["text", "label", "text.1"] and look.notes == [
        "has the column 'text' twice; the first one is read"
    ]
    assert list(readers.read(str(tmp_path / "t.xlsx"))) == [(2, {"text": "a", "label": "x", "text.1": "b"})]
