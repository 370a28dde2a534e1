"""qcompiler.passes."""

if __name__ != "qcompiler.passes":
    raise ImportError("import qcompiler.passes, not passes: the folder installs under that name")
