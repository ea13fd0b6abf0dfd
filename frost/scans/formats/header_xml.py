"""The XML header of ISMRMRD, which fastMRI's files hold too."""

from xml.parsers import expat

from frost.errors import InputError

Fields = dict[str, list[str]]


def xml_fields(text: str, where: str) -> Fields:
    """The texts of every element by its path below the root; that of a second <encoding> begins with `encoding.1/`.

    Raises InputError that starts with `where`. A DOCTYPE is refused, because entities may expand without end.
    """
    fields: Fields = {}
    path: list[str] = []
    n_encodings = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal n_encodings
        path.append(name.rpartition(":")[2])
        if len(path) > 64:
            raise InputError(f"{where}: XML nested deeper than 64")
        if path[1:] == ["encoding"]:
            path[1] += f".{n_encodings}" if n_encodings else ""
            n_encodings += 1

    def doctype(*declaration: object) -> None:
        raise InputError(f"{where}: XML with a DOCTYPE; an ISMRMRD header has none")

    def end(name: str) -> None:
        fields.setdefault("/".join(path[1:]), []).append("".join(characters).strip())
        characters.clear()
        path.pop()

    characters: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters.append, doctype
    try:
        parser.Parse(text.rstrip("\0"), True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        raise InputError(f"{where}: not XML ({error})") from None
    return fields


def below(prefix: str, fields: Fields) -> Fields:
    """The fields whose path begins with `prefix`, by what follows it."""
    return {path.removeprefix(prefix): texts for path, texts in fields.items() if path.startswith(prefix)}
