"""Names that are data, whatever stands in them: markup, formulas, directives, other scripts, this project's own words."""

MARKUP = [
    "<script>window.pwned = alert(1)</script>", "</script><script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned=1">', "<b>bold", "&lt;b&amp;", "a|b", "$a$", "A$B$C", "$$\\int$$", "{glue}",
    "{glue:text}`x`", "{math}`x`", "{{ 7*7 }}", "it's", 'say "so"', "a\\b", "`tick`", "*star*", "__bold__", "50 %", "%s",
    "[x](javascript:window.pwned=1)", "![x](x)", "<!--", "# head", "- item", "]]>", "${window.pwned=1}", "a.b", "a[0]",
]  # fmt: skip
SCRIPTS = ["x" * 300, "עברית", "\u202eعربي", "日本語", "zero\u200bwidth", "😀", "é", "two\nlines", "tab\tbed"]
OWN = [
    "accuracy",
    "method",
    "label",
    "group",
    "n",
    "us",
    "split",
    "kind",
    "uei",
    "base",
    "queim",
    "1",
    "0.5",
    "NA",
    "None",
    "_",
]
NAMES = [*MARKUP, *SCRIPTS, *OWN]
