"""qcompiler.backends."""

if __name__ != "qcompiler.backends":
    raise ImportError(
        "import qcompiler.backends, not backends: the folder installs under that name"
    )
