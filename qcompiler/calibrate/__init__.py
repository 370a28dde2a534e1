"""qcompiler.calibrate."""
