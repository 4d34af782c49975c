"""The long tests of ``bin/soak``: kill it anywhere, feed it anything, run many at once; and count what was lost."""
