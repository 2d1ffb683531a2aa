"""Makes tests/golden/parquet: small Parquet files, and in index.json what they hold or why they are refused.

  make_parquet.py OUTPUT_DIR
Needs pyarrow (26). Good files come from pyarrow with each codec, page version and encoding that the reader takes, and
are read back by it; bad ones are put together here, byte by byte, each with one lie in it.
"""
import json
import os
import random
import struct
import sys
import zlib

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = ["", "a", "word", "naïve café", "漢字かな", "😀👍🏽", "नमस्ते", "line\nbreak", "tab\t", "x" * 40, "the quick brown fox"]


def texts(seed, count, nulls, distinct):
    rng = random.Random(seed)
    some = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(6))) for _ in range(distinct)]
    return [None if nulls and rng.random() < nulls else rng.choice(some) for _ in range(count)]


def good(out):
    """name, table, options, columns to read"""
    few = texts(1, 400, 0.1, 12)
    many = texts(2, 600, 0, 5000)
    ids = list(range(400))
    yield "snappy_dictionary_groups", pa.table({"id": ids, "text": few}), dict(compression="snappy", row_group_size=90), [None, "text"]
    yield "zstd_v2", pa.table({"text": many}), dict(compression="zstd", data_page_version="2.0", data_page_size=2000, write_batch_size=20, use_dictionary=False), [None]
    yield "gzip_v1_fallback", pa.table({"text": many}), dict(compression="gzip", data_page_size=1000, write_batch_size=20, dictionary_pagesize_limit=3000, row_group_size=500), [None]
    yield "none_checksums", pa.table({"text": few[:150]}), dict(compression="none", use_dictionary=False, write_page_checksum=True, data_page_size=500, write_batch_size=20), [None]
    yield "v2_dictionary_nulls", pa.table({"text": texts(3, 300, 0.7, 9)}), dict(compression="snappy", data_page_version="2.0", write_page_checksum=True), [None]
    meta = [None if i % 7 == 0 else {"source": None if i % 5 == 0 else f"set {i % 3}"} for i in range(120)]
    yield "members_of_structs", pa.table({"text": few[:120], "meta": meta}), dict(compression="zstd"), ["text", "meta.source"]
    required = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("large", pa.large_string())])
    yield "required", pa.table({"text": many[:100], "large": few[:100]}, schema=required), dict(), ["text", "large"]
    yield "all_null", pa.table({"text": pa.array([None] * 70, pa.string())}), dict(), [None]
    yield "no_rows", pa.table({"text": pa.array([], pa.string())}), dict(), [None]
    yield "one_string_column", pa.table({"n": [1.5, 2.5], "body": ["first", None]}), dict(), [None]
    old = dict(version="1.0", compression="snappy", use_dictionary=True)
    yield "version_1", pa.table({"text": few}), old, [None]


def refused():
    table = pa.table({"text": ["a", "b"], "n": [1, 2]})
    messages = [[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]]
    yield "lz4", table, dict(compression="lz4"), None, "codec 7 (LZ4_RAW) is not supported"
    yield "brotli", table, dict(compression="brotli"), None, "codec 4 (BROTLI) is not supported"
    yield "delta", pa.table({"text": ["a", "b"]}), dict(use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}), None, "encoding 7 (DELTA_BYTE_ARRAY)"
    yield "numbers", table, {}, "n", "column n holds no strings; string columns: text"
    yield "absent", table, {}, "body", "no column body; name one with :column=NAME; string columns: text, all: text, n"
    yield "conversation", pa.table({"messages": messages}), {}, None, "column messages is a list, a conversation"
    yield "list", pa.table({"text": [["a", "b"], []]}), {}, None, "column text is a list; string columns: none"
    yield "two_columns", pa.table({"one": ["a"], "two": ["b"]}), {}, None, "string columns: one, two"


class Compact:
    """Thrift's compact protocol, as far as a footer needs it. Structs are lists of (id, type, value)."""
    I32, I64, BINARY, LIST, STRUCT, TRUE, FALSE = 5, 6, 8, 9, 12, 1, 2

    @staticmethod
    def varint(n):
        out = b""
        while n > 0x7F:
            out += bytes([n & 0x7F | 0x80])
            n >>= 7
        return out + bytes([n])

    @classmethod
    def value(cls, kind, v):
        if kind in (cls.I32, cls.I64):
            return cls.varint((v << 1) ^ (v >> 63) if v >= 0 else ((-v) << 1) - 1)
        if kind == cls.BINARY:
            return cls.varint(len(v)) + v
        if kind == cls.STRUCT:
            return cls.structure(v)
        if kind == cls.LIST:
            element, items = v
            head = bytes([len(items) << 4 | element]) if len(items) < 15 else bytes([0xF0 | element]) + cls.varint(len(items))
            return head + b"".join(cls.value(element, i) for i in items)
        return b""

    @classmethod
    def structure(cls, fields):
        out, last = b"", 0
        for number, kind, v in fields:
            out += bytes([(number - last) << 4 | kind]) + cls.value(kind, v)
            last = number
        return out + b"\0"


C = Compact


def lie(**given):
    """A file of one column "text" with the rows a and bc, uncompressed, where the named values are others."""
    g = dict(codec=0, rows=2, values=2, data_offset=4, chunk_size=None, column_type=6, page_values=2, encoding=0, page_type=0, size=None,
             full_size=None, body=None, levels=3, crc=None, file_path=None, dictionary=None, dictionary_offset=None, schema=None, footer_size=None,
             head=b"PAR1", tail=b"PAR1", definition_bytes=0, repetition_bytes=0, meta=True, twice=False, groups=None)
    assert set(given) <= set(g)
    g.update(given)
    body = g["body"] if g["body"] is not None else b"\x02\0\0\0\x04\x01" + b"\x01\0\0\0a" + b"\x02\0\0\0bc"
    size = len(body) if g["size"] is None else g["size"]
    full = size if g["full_size"] is None else g["full_size"]
    page = [(1, C.I32, g["page_type"]), (2, C.I32, full), (3, C.I32, size)] + ([(4, C.I32, g["crc"])] if g["crc"] is not None else [])
    if g["page_type"] == 3:
        page.append((8, C.STRUCT, [(1, C.I32, g["page_values"]), (2, C.I32, 0), (3, C.I32, 2), (4, C.I32, g["encoding"]),
                                   (5, C.I32, g["definition_bytes"]), (6, C.I32, g["repetition_bytes"])]))
    else:
        page.append((5, C.STRUCT, [(1, C.I32, g["page_values"]), (2, C.I32, g["encoding"]), (3, C.I32, g["levels"]), (4, C.I32, 3)]))
    pages = b""
    if g["dictionary"] is not None:
        pages = C.structure([(1, C.I32, 2), (2, C.I32, len(g["dictionary"])), (3, C.I32, len(g["dictionary"])),
                             (7, C.STRUCT, [(1, C.I32, 2), (2, C.I32, 0)])]) + g["dictionary"]
        pages *= 2 if g["twice"] else 1
    pages += C.structure(page) + body
    chunk_size = len(pages) if g["chunk_size"] is None else g["chunk_size"]
    meta = [(1, C.I32, g["column_type"]), (2, C.LIST, (C.I32, [0, 3])), (3, C.LIST, (C.BINARY, [b"text"])), (4, C.I32, g["codec"]),
            (5, C.I64, g["values"]), (6, C.I64, chunk_size), (7, C.I64, chunk_size), (9, C.I64, g["data_offset"])]
    if g["dictionary_offset"] is not None:
        meta.append((11, C.I64, g["dictionary_offset"]))
    chunk = ([(1, C.BINARY, g["file_path"])] if g["file_path"] else []) + [(2, C.I64, 0)] + ([(3, C.STRUCT, meta)] if g["meta"] else [])
    schema = g["schema"] or [[(4, C.BINARY, b"schema"), (5, C.I32, 1)], [(1, C.I32, 6), (3, C.I32, 1), (4, C.BINARY, b"text"), (6, C.I32, 0)]]
    group = [(1, C.LIST, (C.STRUCT, [chunk])), (2, C.I64, chunk_size), (3, C.I64, g["rows"])]
    groups = [group] if g["groups"] is None else [group] * g["groups"]
    footer = C.structure([(1, C.I32, 1), (2, C.LIST, (C.STRUCT, schema)), (3, C.I64, g["rows"]), (4, C.LIST, (C.STRUCT, groups))])
    footer_size = len(footer) if g["footer_size"] is None else g["footer_size"]
    return g["head"] + pages + footer + struct.pack("<I", footer_size) + g["tail"]


def leaf(name, **more):
    return [(1, C.I32, 6), (3, C.I32, more.get("repetition", 1)), (4, C.BINARY, name)]


def lies():
    """name, bytes, what the error says; None: it is good. Errors come at opening or at reading."""
    levels = b"\x02\0\0\0\x04\x01"
    words = b"\x01\0\0\0a\x02\0\0\0bc"
    deep = [[(4, C.BINARY, b"g"), (5, C.I32, 1)]] * 60 + [leaf(b"text")]
    yield "honest", lie(), None
    yield "honest_crc", lie(crc=zlib.crc32(levels + words) - (1 << 32) if zlib.crc32(levels + words) >> 31 else zlib.crc32(levels + words)), None
    yield "honest_dictionary", lie(dictionary=words, dictionary_offset=4, data_offset=20, encoding=8, body=levels + b"\x01\x03\x02"), None
    yield "honest_offset_0", lie(dictionary=words, dictionary_offset=0, data_offset=4, encoding=2, body=levels + b"\x01\x03\x02"), None
    yield "checksum", lie(crc=7), "does not match its checksum"
    yield "offset_negative", lie(data_offset=-1), "at -1, outside of the file's data"
    yield "offset_huge", lie(data_offset=1 << 62), "at 4611686018427387904, outside"
    yield "offset_in_magic", lie(data_offset=3), "at 3, outside"
    yield "offset_footer", lie(data_offset=40), "outside of the file's data"
    yield "chunk_huge", lie(chunk_size=(1 << 63) - 1), "would be 9223372036854775807 bytes"
    yield "chunk_negative", lie(chunk_size=-5), "would be -5 bytes"
    yield "chunk_short", lie(chunk_size=9), "no page header at byte 4"
    yield "codec_unknown", lie(codec=99), "codec 99 (?)"
    yield "values_differ", lie(values=3), "2 rows and 3 values"
    yield "rows_negative", lie(rows=-2, values=-2), "-2 rows"
    yield "rows_many", lie(rows=3, values=3), "1 values less than its 3 rows"
    yield "rows_overflow", lie(rows=(1 << 63) - 1, values=(1 << 63) - 1, groups=2), "number of rows"
    yield "type_differs", lie(column_type=1), "of type 1"
    yield "page_values_many", lie(page_values=3), "more values than its 2 rows"
    yield "page_values_huge", lie(page_values=(1 << 31) - 1, rows=1 << 40, values=1 << 40), "a page of 2147483647 values"
    yield "page_values_negative", lie(page_values=-1), "a page of -1 values"
    yield "page_size_huge", lie(size=1 << 30), "a page of 1073741824 bytes"
    yield "page_size_negative", lie(size=-1), "a page of -1 bytes"
    yield "page_full_size_huge", lie(full_size=1 << 30), "1073741824 expanded"
    yield "page_full_size_differs", lie(full_size=18), "17 bytes of UNCOMPRESSED do not give the 18"
    yield "page_type_unknown", lie(page_type=9), "unknown type 9"
    yield "encoding_unknown", lie(encoding=77), "encoding 77 (?)"
    yield "levels_bit_packed", lie(levels=4), "definition levels in encoding 4 (BIT_PACKED)"
    yield "levels_long", lie(body=b"\xff\xff\xff\x7f\x04\x01" + words), "definition levels of 2147483647 bytes"
    yield "levels_missing", lie(body=b"\0\0\0\0" + words), "value 0 of the page: its definition level"
    yield "levels_cut", lie(body=b"\0\0"), "definition levels of 0 bytes in a page of 2"
    yield "level_high", lie(body=b"\x02\0\0\0\x04\x03" + words), "its definition level is missing or too high"
    yield "string_long", lie(body=levels + b"\x01\0\0\0a\xff\xff\xff\xffbc"), "value 1 of the page: it is longer than the page"
    yield "string_missing", lie(body=levels + b"\x01\0\0\0a\x02"), "value 1 of the page: its length is missing"
    yield "no_dictionary", lie(encoding=8, body=levels + b"\x01\x03\x02"), "but no dictionary"
    yield "two_dictionaries", lie(dictionary=words, twice=True, encoding=8, body=levels + b"\x01\x03\x02"), "two dictionaries"
    yield "index_high", lie(dictionary=words, encoding=8, body=levels + b"\x02\x04\x03"), "index is beyond the dictionary"
    yield "index_missing", lie(dictionary=words, encoding=8, body=levels), "index is missing"
    yield "index_wide", lie(dictionary=words, encoding=8, body=levels + b"\x21\x03\x02"), "indexes of 33 bits"
    yield "external", lie(file_path=b"other.parquet"), "in another file"
    yield "no_meta", lie(meta=False), "0 values of type -1"
    yield "v2_levels_long", lie(page_type=3, definition_bytes=99), "levels of 0 and 99 bytes"
    yield "v2_repetition", lie(page_type=3, repetition_bytes=2), "levels of 2 and 0 bytes"
    yield "snappy_lies", lie(codec=1, body=b"\xff\xff\xff\xff\x0f" + b"x" * 12), "17 bytes of SNAPPY"
    yield "gzip_garbage", lie(codec=2), "17 bytes of GZIP"
    yield "zstd_garbage", lie(codec=6), "17 bytes of ZSTD"
    yield "schema_deep", lie(schema=deep), "the schema in the footer is damaged"
    yield "schema_children", lie(schema=[[(4, C.BINARY, b"s"), (5, C.I32, 1 << 30)], leaf(b"text")]), "the schema in the footer"
    yield "schema_left_over", lie(schema=[[(4, C.BINARY, b"s"), (5, C.I32, 1)], leaf(b"text"), leaf(b"more")]), "the schema in the footer"
    yield "schema_repetition", lie(schema=[[(4, C.BINARY, b"s"), (5, C.I32, 1)], leaf(b"text", repetition=3)]), "the schema in the footer"
    yield "footer_long", lie(footer_size=1 << 31), "a footer of 2147483648 bytes"
    yield "footer_short", lie(footer_size=3), "damaged"
    yield "encrypted", lie(tail=b"PARE"), "is encrypted"
    yield "no_magic", lie(tail=b"PAR2"), "does not begin and end with PAR1"
    yield "tiny", b"PAR1PAR1", "8 bytes are no Parquet file"


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    for old in os.listdir(out):
        os.remove(os.path.join(out, old))
    index = []
    for name, table, options, columns in good(out):
        pq.write_table(table, f"{out}/{name}.parquet", **{"store_schema": False, "write_statistics": name != "version_1", **options})
        back = pq.read_table(f"{out}/{name}.parquet")
        for column in columns:
            whole = column or ("text" if "text" in back.column_names else "body")
            values = back[whole.split(".")[0]].to_pylist()
            if "." in whole:
                values = [None if v is None else v[whole.split(".")[1]] for v in values]
            index.append({"file": f"{name}.parquet", "column": column, "rows": values})
    for name, table, options, column, says in refused():
        pq.write_table(table, f"{out}/refused_{name}.parquet", store_schema=False, **options)
        index.append({"file": f"refused_{name}.parquet", "column": column, "says": says})
    for name, data, says in lies():
        with open(f"{out}/made_{name}.parquet", "wb") as f:
            f.write(data)
        index.append({"file": f"made_{name}.parquet", "column": None, **({"says": says} if says else {"rows": ["a", "bc"]})})
    with open(f"{out}/index.json", "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(i, ensure_ascii=False, separators=(",", ":")) for i in index) + "\n]\n")


main()
