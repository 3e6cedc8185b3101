"""tests/hostile.py: names of files and mount points that an attacker might choose, for any test to try.

The kernel escapes only space, tab, newline and backslash in the paths of its mount table ('#' in sources).  Python's
str.split() and splitlines() also end a word or a line at no-break spaces, line separators, CR, FF and VT.
"""

# What a name is called in a test's id, and its bytes.
HOSTILE_NAMES: dict[str, bytes] = {
    "space": b"a b", "spaces behind": b"a  ", "tab": b"a\tb", "newline": b"a\nb", "newline behind": b"a\n",
    "cr": b"a\rb", "vt": b"a\vb", "ff": b"a\fb", "fs": b"a\x1cb", "nel": "a\u0085b".encode(),
    "nbsp": "My\u00a0Files".encode(), "line separator": "a\u2028b".encode(), "paragraph": "a\u2029b".encode(),
    "ideographic space": "a\u3000b".encode(), "esc": b"a\x1b[31mb\x1b[2J", "bell": b"a\x07b", "del": b"a\x7fb",
    "bidi": "a\u202eb".encode(), "no utf-8": b"a\xff\xfeb", "half a character": b"a\xe2\x80", "latin-1": b"caf\xe9",
    "backslash": b"a\\b", "octal": b"a\\040b", "hash": b"#a#b", "dash": b"-", "option": b"-o", "percent": b"100%s%d",
    "comma": b"a,b\\,c", "quote": b"a'b\"c", "braces": b"{x}{0}", "markup": b"[bold red]a",
    "long": b"n" * 200,
}
# And paths, which have slashes in them.
HOSTILE_PATHS: dict[str, bytes] = {
    **HOSTILE_NAMES, "markup that ends": b"[red]a[/red]",
    "a line of the table": b"x\n99 1 0:99 / /mnt rw - fuse.tmpfsd x rw,user_id=0,group_id=0",
    "a line after U+2028": "x\u2028" "99\u00a01\u00a00:99\u00a0/\u00a0/mnt".encode(),
}
